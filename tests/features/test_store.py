"""The feature store as a user meets it: applying, ingesting, pushing, versions, and clear refusals."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mlplat import features as F
from mlplat.errors import BatchRefused, InvalidInput, NotFound, Refused, Unavailable
from mlplat.features.chunks import ChunkReader
from mlplat.features.definitions import View
from mlplat.features.lmdb_store import LmdbStore
from mlplat.features.pool import InProcess
from mlplat.features.reader import open_reader
from mlplat.features.store import FeatureStore
from mlplat.features.tables import EventTable
from mlplat.home import open_home
from tests.features.support import START_US, StillClock, after, open_store

sales = F.source("sales", key="shop", time="at", id="order")


@F.view(sales)
class hourly:
    sold = F.count(window="1h")
    mean = F.mean("price", window="1h")


@F.view(sales, ttl="1h")
class newest:
    price: float = F.latest("price")


@F.view(sales)
class doubled:
    double: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(double=pl.col("price") * 2)


def sale(order: int, price: float | None = 1.0, shop: str = "a") -> dict[str, Any]:
    return {"shop": shop, "order": order, "at": after(order), "price": price}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = open_store(tmp_path)
    made.ingest(sales, [sale(1), sale(2)])
    return made


def stored(store: FeatureStore) -> list[int]:
    store.flush()
    return sorted(EventTable(store._home / "tables" / "sources" / "sales").read(["order"])["order"].to_list())


def test_a_batch_is_added_once_by_its_id_and_an_event_once_by_its_own(store: FeatureStore) -> None:
    first = store.ingest(sales, [sale(3), sale(4), sale(4)], batch_id="monday")
    assert (first.rows, first.added, first.duplicates) == (3, 2, 1)
    assert store.ingest(sales, [sale(5)], batch_id="monday").added == 0
    assert store.ingest(sales, [sale(4), sale(6)], batch_id="tuesday").added == 1
    again = store.ingest(sales, [sale(1), sale(2)])
    assert (again.added, again.table_version) == (0, 2)
    assert stored(store) == [1, 2, 3, 4, 6]
    store.close()


def test_a_refused_batch_or_push_leaves_the_table_as_it_was(store: FeatureStore) -> None:
    store.apply(hourly)
    for add in (store.ingest, store.push):
        for bad in ({"at": after(0).replace(tzinfo=None)}, {"price": "x"}, {"shop": None}, {"colour": 1}):
            with pytest.raises(InvalidInput, match=r"refused the batch and is unchanged|do not make a table"):
                add(sales, [sale(8), {**sale(9), **bad}])
    assert stored(store) == [1, 2]
    assert store.online(hourly, {"shop": ["a"]}, at=after(100)).to_arrow()["sold"].to_pylist() == [2]
    store.close()


def test_the_first_push_sets_the_types(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply(hourly)
    store.push(sales, sale(1))
    store.push(sales, [])
    store.push(sales, [sale(2), sale(3, price=None)])
    row = store.online(hourly, {"shop": ["a"]}, at=after(100)).to_arrow().to_pylist()[0]
    assert (row["sold"], row["mean"]) == (3, 1.0)
    with pytest.raises(BatchRefused, match="price: is '1', and the table has floats"):
        store.push(sales, {**sale(4), "price": "1"})
    store.close()


def test_a_name_stands_for_one_source(store: FeatureStore) -> None:
    other = F.source("sales", key=("shop", "town"), time="at")
    for use in (store.ingest, store.push):
        with pytest.raises(
            Refused,
            match=r"source 'sales' is registered as key=shop, time=at, id=order, and this one is key=shop\+town",
        ):
            use(other, [{**sale(7), "town": "x"}])
    assert stored(store) == [1, 2]
    store.close()


def test_a_view_that_its_source_cannot_feed_is_refused(store: FeatureStore) -> None:
    def view(name: str, body: dict[str, Any], **arguments: Any) -> View:
        return F.view(sales, **arguments)(type(name, (), body))

    for bad, message in (
        (view("v", {"x": F.mean("cost", window="1h")}), "view 'v' reads column 'cost', and source 'sales' has shop, "),
        (view("v", {"x": F.mean("shop", window="1h")}), "reads column 'shop' as a number, and source 'sales' has it as String"),
        (view("v", {"x": F.count(window="1h")}, key="town"), "reads column 'town', and source"),
        (view("v", {"x": F.count(window="1h")}, key="price"), "reads column 'price' as a key, which is text"),
        (view("v", {"x": F.latest("shop"), "__annotations__": {"x": int}}), "reads column 'shop' as Int64"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=message):
            store.apply(bad)
    with pytest.raises(InvalidInput, match="apply takes views, and got str"):
        store.apply("hourly")  # type: ignore[arg-type]
    assert store.views() == []
    store.close()


def test_the_first_batch_must_feed_the_views_that_wait_for_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply(hourly)
    with pytest.raises(InvalidInput, match="view 'hourly' reads column 'price'"):
        store.ingest(sales, [{"shop": "a", "order": 1, "at": after(1)}])
    assert EventTable(tmp_path / "tables" / "sources" / "sales").version() == -1
    store.ingest(sales, [sale(1)])
    store.close()


def test_an_unknown_view_is_answered_with_the_near_ones(store: FeatureStore) -> None:
    store.apply(hourly)
    for ask in (
        lambda: store.view("hourl"),
        lambda: store.history("hourl"),
        lambda: store.online("hourl", {"shop": []}),
    ):
        with pytest.raises(NotFound, match=r"There is no view 'hourl'. Did you mean 'hourly'"):
            ask()
    with pytest.raises(NotFound, match="There is no version of view 'hourly' 'beef'"):
        store.view("hourly", "beef")
    with pytest.raises(NotFound, match="There is no view 'newest'"):
        store.join(pl.DataFrame({"shop": ["a"], "at": [after(1)]}), [newest], time="at")
    store.close()


def test_versions_are_immutable_and_live_side_by_side(store: FeatureStore) -> None:
    (first,) = store.apply(hourly)
    assert store.apply(hourly) == [first]
    assert first.applied_at_us == START_US
    changed = F.view(sales)(type("hourly", (), {"sold": F.count(window="2s")}))
    (second,) = store.apply(changed)
    assert [entry.version for entry in store.history("hourly")] == [first.version, second.version]
    assert store.view("hourly").version == changed.version
    frame = pl.DataFrame({"shop": ["a"], "at": [after(3.5)]})
    assert store.join(frame, ["hourly"], time="at")["hourly.sold"].to_list() == [1]
    assert store.join(frame, [first.view.ref], time="at")["hourly.sold"].to_list() == [2]
    store.apply(hourly)
    assert [entry.version for entry in store.history("hourly")] == [first.version, second.version, first.version]
    store.close()


def test_a_view_that_is_applied_late_sees_what_was_pushed_before(store: FeatureStore) -> None:
    store.push(sales, sale(3))
    store.apply(hourly, newest, doubled)
    assert store.online(hourly, {"shop": ["a"]}, at=after(100)).to_arrow()["sold"].to_pylist() == [3]
    assert store.online(doubled, {"shop": ["a"]}, at=after(100)).to_arrow()["double"].to_pylist() == [2.0]
    store.close()


def test_an_online_read_is_typed_and_says_what_is_missing_or_expired(store: FeatureStore) -> None:
    store.apply(hourly, newest)
    found = store.online(newest, {"shop": ["a", "b"]}, at=after(100)).to_arrow()
    assert found.schema.field("price").type == pa.float64()
    assert found["status"].to_pylist() == ["ok", "missing"]
    assert store.online(newest, {"shop": ["a"]}, at=after(3603)).to_arrow()["status"].to_pylist() == ["expired"]
    nobody = store.online(hourly, {"shop": ["b"]}, at=after(100)).to_arrow()
    assert nobody.to_pylist() == [{"shop": "b", "sold": 0, "mean": None, "status": "missing"}]
    assert nobody.schema.field("mean").type == pa.float64()
    assert store.online(newest, {"shop": pl.Series(["a"])}).to_arrow()["status"].to_pylist() == [
        "missing"
    ]  # START is before
    store.close()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"town": ["a"]}, "view 'newest' is keyed by shop; 'shop' is not given"),
        ({"shop": "a"}, "key 'shop': give a list of entities, as in {'shop': \\['a'\\]}"),
    ],
)
def test_an_online_read_without_its_keys_is_refused(store: FeatureStore, keys: Any, message: str) -> None:
    store.apply(newest)
    with pytest.raises(InvalidInput, match=message):
        store.online(newest, keys)
    with pytest.raises(InvalidInput, match="at=2013-09-01T00:00:01 has no time zone"):
        store.online(newest, {"shop": ["a"]}, at=after(1).replace(tzinfo=None))
    store.close()


@pytest.mark.slow
def test_another_process_makes_the_features_with_the_code_that_was_applied(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.ingest(sales, [sale(1)])
    store.apply(doubled)
    store.close()
    other = open_store(tmp_path)
    frame = pl.DataFrame({"shop": ["a"], "at": [after(100)]})
    assert other.join(frame, ["doubled"], time="at")["doubled.double"].to_list() == [2.0]
    other.push(sales, sale(2))
    other.ingest(sales, [sale(3, 5.0)])
    assert other.join(frame, ["doubled"], time="at")["doubled.double"].to_list() == [10.0]
    other.close()


def test_code_that_is_no_longer_current_is_not_needed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.ingest(sales, [sale(1)])
    store.apply(doubled)
    store.apply(F.view(sales)(type("doubled", (), {"double": F.sum("price", window="1h")})))
    store.close()
    other = open_store(tmp_path)
    other.push(sales, sale(2))
    assert other.online("doubled", {"shop": ["a"]}, at=after(100)).to_arrow()["double"].to_pylist() == [2.0]
    other.close()


@pytest.mark.slow
def test_few_rows_are_made_here_and_many_on_the_pool(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(InProcess):
        def batch(
            self, view: View, reader: ChunkReader, *, stopped: Callable[[], bool]
        ) -> Generator[pl.DataFrame, None, None]:
            asked.append(sum(chunk.rows for chunk in reader.chunks))
            return super().batch(view, reader, stopped=stopped)

    store = FeatureStore(tmp_path, clock=StillClock(), pool=Counting())
    store.apply(doubled)
    store.ingest(sales, [sale(i) for i in range(1001)])
    store.ingest(sales, [sale(i) for i in range(2000, 2003)])
    assert asked == [1001]
    found = store.online(doubled, {"shop": ["a"]}, at=after(9999)).to_arrow()["double"].to_pylist()
    assert found == [2.0]
    store.close()


def test_one_process_may_open_a_home_twice_and_read_beside_it(tmp_path: Path) -> None:
    one, other = open_store(tmp_path), open_store(tmp_path)
    reader = open_reader(tmp_path)
    one.ingest(sales, [sale(1)])
    one.apply(newest)
    other.push(sales, sale(2, 3.0))
    one.close()
    other.push(sales, sale(3, 4.0))
    assert reader.read([newest.ref], {"shop": ["a"]}, [START_US + 10**8]).columns == {"newest.price": [4.0]}
    assert stored(other) == [1, 2, 3]
    other.close()
    reader.close()
    with pytest.raises(Unavailable, match="is closed; open the home again"):
        reader.read([newest.ref], {"shop": ["a"]}, [START_US])


@pytest.mark.slow
def test_threads_may_push_apply_and_read_at_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.push(sales, sale(0))
    failed: list[Exception] = []

    def run(work: Any) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the test fails on it, whatever it is
            failed.append(error)

    def pushes(first: int) -> None:
        for i in range(15):
            store.push(sales, sale(first + i))

    work = [lambda: pushes(100), lambda: pushes(200), lambda: store.apply(hourly, newest, doubled), store.flush]
    threads = [threading.Thread(target=run, args=(job,)) for job in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(stored(store)) == 31
    at = after(1000)
    frame = pl.DataFrame({"shop": ["a"], "at": [at]})
    joined = store.join(frame, ["hourly", "doubled"], time="at")
    assert (
        store.online(hourly, {"shop": ["a"]}, at=at).to_arrow()["sold"].to_pylist()
        == joined["hourly.sold"].to_list()
        == [31]
    )
    store.close()


def test_a_join_on_an_unusable_time_is_refused(store: FeatureStore) -> None:
    store.apply(newest)
    frame = pl.DataFrame({"shop": ["a"], "at": [after(1)]})
    for bad, message in (
        (frame.drop("at"), "the rows have no time column 'at'; they have shop"),
        (frame.with_columns(pl.col("at").dt.replace_time_zone(None)), "a time is a timestamp with a zone"),
        (frame.with_columns(at=pl.lit("2013-09-01T00:00:00Z")), "column 'at' is String"),
        (frame.with_columns(at=pl.lit(None, dtype=pl.Datetime("us", "UTC"))), "at: the time is null"),
    ):
        with pytest.raises(InvalidInput, match=message):
            store.join(bad, [newest], time="at")
    eastern = frame.with_columns(pl.col("at").dt.convert_time_zone("America/New_York").dt.cast_time_unit("ns"))
    assert store.join(eastern, [newest], time="at")["newest.price"].to_list() == [1.0]
    assert store.join(frame.clear(), [newest], time="at").height == 0
    store.close()


@pytest.mark.slow
def test_a_home_of_the_first_format_is_rebuilt_when_it_opens(tmp_path: Path) -> None:
    store = open_store(open_home(tmp_path))
    store.apply(hourly, newest, doubled)
    store.ingest(sales, [sale(1), sale(2, 3.0)])
    store.close()
    # As the first format had it: other keys, a head of (time, id), the mask before the numbers; and marks as now.
    (tmp_path / "home.json").write_text('{"format": 1}')
    online = LmdbStore(tmp_path / "online")
    for view in (hourly, newest, doubled):
        online.delete(view.name, view.version)
        key = f"{view.name}@{view.version}/".encode()
        old = struct.pack("<qq", START_US, 7) + b"\0" + struct.pack("<d", 99.0)
        mark = (10**6).to_bytes(8, "big", signed=True)
        online.update([key + bytes(16), key + b"mark"], lambda _, old=old, mark=mark: [old, mark])
    online.close()
    store = open_store(open_home(tmp_path))
    found = store.online([hourly, newest, doubled], {"shop": ["a"]}, at=after(100))
    assert found.numpy().tolist() == [[2.0, 2.0, 3.0, 6.0]]
    store.close()
