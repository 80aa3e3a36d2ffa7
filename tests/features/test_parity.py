"""Online and offline features are the same bytes, whatever the order in which events arrive."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.errors import InvalidInput, ParityError
from mlplat.features.definitions import View
from mlplat.features.online_writer import keep_us
from mlplat.features.parity import differing_rows
from mlplat.features.push import to_us
from mlplat.features.reader import open_reader
from mlplat.features.store import FeatureStore
from tests.features.support import START, START_US, after, open_store, row_bytes

sales = F.source("sales", key="shop", time="sold_at", id="sale_id")


@F.view(sales)
class recent:
    sold_1m = F.count(window="1m")
    total_1m = F.sum("price", window="1m")
    mean_10m = F.mean("price", window="10m")
    least_10m = F.min("price", window="10m")
    last_10m = F.last("stock", window="10m")


@F.view(sales, key=("shop", "kind"), ttl="1h")
class newest:
    price: float = F.latest("price")
    stock: int = F.latest("stock")
    kind_now: str = F.latest("kind")
    age = F.age()


@F.view(sales)
class priced:
    cents: int
    dear: bool
    label: str

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        price = pl.col("price")
        return rows.select(cents=(price * 100).round().cast(pl.Int64), dear=price > 2.5, label=pl.col("kind") + "!")


VIEWS: list[View] = [recent, newest, priced]
KEYS = ("shop", "kind")

moments = st.integers(0, 90).map(lambda step: after(step * 120.5))  # three hours: more than a blob keeps
sale = st.fixed_dictionaries(
    {
        "shop": st.sampled_from(["north", "south"]),
        "kind": st.sampled_from(["a", "b", None]),
        "sold_at": moments,
        "price": st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([0.1, 0.2, 1e16])),
        "stock": st.one_of(st.none(), st.integers(-(2**40), 2**40)),
    }
)


def first_row() -> dict[str, Any]:
    return {"shop": "first", "kind": "a", "sold_at": START, "price": 1.0, "stock": 1, "sale_id": "first"}


def same_online_and_offline(store: FeatureStore, view: View, asked: list[dict[str, Any]], home: Path) -> None:
    frame = pl.DataFrame(asked, schema={"shop": pl.String, "kind": pl.String, "at": pl.Datetime("us", "UTC")})
    offline = store.join(frame, [view], time="at")
    keys = {key: [row[key] for row in asked] for key in KEYS}
    reader = open_reader(home)
    online = reader.read([view.ref], keys, [to_us(row["at"]) for row in asked])
    reader.close()
    columns = {name: offline[name].to_list() for name in view.ref.columns()}
    assert row_bytes(view.ref, online.columns) == row_bytes(view.ref, columns), (online, columns)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.lists(sale, min_size=1, max_size=14), st.randoms(), st.data())
def test_streamed_in_any_order_and_batches_equals_the_join(rows: list[Any], random: Any, data: st.DataObject) -> None:
    events = [{**row, "sale_id": f"s{i}"} for i, row in enumerate(rows)]
    stream = [*events, *random.sample(events, len(events) // 3)]  # some are delivered again
    random.shuffle(stream)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        store = open_store(home)
        store.push(sales, first_row())
        store.apply(*VIEWS)
        while stream:
            size = data.draw(st.integers(1, 4))
            batch, stream = stream[:size], stream[size:]
            if data.draw(st.integers(0, 3)) == 0:
                store.ingest(sales, batch)
            else:
                store.push(sales, batch)
        newest_of = {(e["shop"], e["kind"]): e["sold_at"] for e in sorted(events, key=lambda e: e["sold_at"])}
        shops = {shop: max(e["sold_at"] for e in events if e["shop"] == shop) for shop, _ in newest_of}
        kept_s = (keep_us(recent) - recent.span_us) // 1_000_000
        for view, entities in (
            (recent, [(shop, None, at, back) for shop, at in shops.items() for back in (-90, 0, 0.5, 60, 600, kept_s)]),
            (
                newest,
                [(shop, kind, at, back) for (shop, kind), at in newest_of.items() for back in (0, -60, -3600, -3601)],
            ),
            (priced, [(shop, None, at, back) for shop, at in shops.items() for back in (0, -60)]),
        ):
            asked = [
                {"shop": shop, "kind": kind, "at": at - (after(back) - START)} for shop, kind, at, back in entities
            ]
            same_online_and_offline(store, view, asked, home)
        table = store.join(
            pl.DataFrame({"shop": ["nobody", None], "kind": ["a", "a"], "at": [START, START]}), VIEWS, time="at"
        )
        assert table["recent.sold_1m"].to_list() == [0, 0]
        store.close()


def test_a_moment_before_what_a_blob_keeps_is_missing_and_not_wrong(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply(recent)
    rows = [{**first_row(), "sold_at": after(60 * i), "sale_id": str(i)} for i in range(300)]
    store.ingest(sales, rows)
    early = store.online(recent, {"shop": ["first"]}, at=after(600)).to_arrow().to_pylist()[0]
    assert early["status"] == "missing"
    assert early["sold_1m"] is None
    assert store.online(recent, {"shop": ["first"]}, at=after(60 * 299)).to_arrow().to_pylist()[0]["sold_1m"] == 1
    store.close()


def test_a_late_event_counts_in_the_windows_it_falls_in(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.push(sales, first_row())
    store.apply(recent, newest)
    store.push(sales, {**first_row(), "sold_at": after(100), "sale_id": "b", "price": 2.0})
    store.push(sales, {**first_row(), "sold_at": after(50), "sale_id": "c", "price": 4.0})
    assert store.online(recent, {"shop": ["first"]}, at=after(101)).to_arrow().to_pylist()[0]["total_1m"] == 6.0
    row = store.online(newest, {"shop": ["first"], "kind": ["a"]}, at=after(101)).to_arrow().to_pylist()[0]
    assert (row["price"], row["age"]) == (2.0, 1.0)
    store.close()


def test_the_first_of_two_events_with_one_id_stays_on_both_paths(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.push(sales, {**first_row(), "sale_id": "zero"})
    store.apply(recent, newest)
    twice = {**first_row(), "shop": "twice"}
    store.push(sales, [{**twice, "price": 5.0}, {**twice, "price": 7.0}, {**twice, "shop": "other"}])
    store.push(sales, {**twice, "price": 9.0})
    asked = [{"shop": shop, "kind": "a", "at": after(1)} for shop in ("twice", "other")]
    same_online_and_offline(store, newest, asked, tmp_path)
    same_online_and_offline(store, recent, asked, tmp_path)
    assert store.online(newest, {"shop": ["twice"], "kind": ["a"]}, at=after(1)).to_arrow()["price"].to_pylist() == [
        5.0
    ]
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("column", ["price", "stock", "open"])
def test_any_number_can_be_in_a_window_even_a_key(tmp_path: Path, column: str) -> None:
    source = F.source("ticks", key="stock", time="sold_at")
    view = F.view(source)(type("wide", (), {"most": F.max(column, window="1m")}))
    store = open_store(tmp_path)
    store.apply(view)
    rows = [{"stock": 3, "price": 1.5, "open": True, "sold_at": after(i)} for i in range(3)]
    store.ingest(source, rows[:2])
    store.push(source, rows[2])
    found = store.online(view, {"stock": [3]}, at=after(3)).to_arrow()["most"].to_pylist()
    assert found == [float(rows[0][column])]
    assert store.join(pl.DataFrame({"stock": [3], "at": [after(3)]}), [view], time="at")["wide.most"].to_list() == found
    store.close()


@F.view(sales)
class counting:
    """Depends on the rows before."""

    running: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(running=pl.col("price").cum_sum())


def test_a_view_that_depends_on_its_batch_is_refused_with_the_first_differing_row(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.ingest(sales, [{**first_row(), "sale_id": str(i), "price": float(i)} for i in range(5)])
    with pytest.raises(ParityError, match=r"view 'counting' depends on how its rows are batched. Row \d of the sample"):
        store.apply(counting)
    assert store.views() == []
    store.close()


def test_differing_rows_sees_nulls_and_signs() -> None:
    ref = recent.ref
    one = pl.DataFrame({c: [1.0, None, 0.0] for c in ref.columns()}).cast({"recent.sold_1m": pl.Int64})
    other = one.with_columns(pl.Series("recent.mean_10m", [1.0, 0.0, -0.0]))
    assert differing_rows(one, one, [ref]) == []
    assert differing_rows(one, other, [ref]) == [1, 2]
    with pytest.raises(InvalidInput, match="3 and 2 rows"):
        differing_rows(one, one.head(2), [ref])


def test_times_before_the_epoch_and_microseconds_are_exact(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply(recent, newest)
    old = START.replace(year=1931, microsecond=1)
    store.push(sales, {**first_row(), "sold_at": old})
    asked = [{"shop": "first", "kind": "a", "at": old.replace(microsecond=m)} for m in (1, 2)]
    same_online_and_offline(store, newest, asked, tmp_path)
    same_online_and_offline(store, recent, asked, tmp_path)
    assert store.online(recent, {"shop": ["first"]}, at=old.replace(microsecond=2)).to_arrow()[
        "sold_1m"
    ].to_pylist() == [1]
    assert to_us(START) == START_US
    store.close()
