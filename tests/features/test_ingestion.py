"""Batches on their way in: versions of events, zones, added columns, bad rows, large batches, and other writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import BatchRefused, Conflict, InvalidInput
from mlplat.features import read_data, staging
from mlplat.features.store import FeatureStore
from mlplat.features.tables import EventTable
from tests.features.support import after, open_store

sales = F.source("sales", key="shop", time="at", id="order")
stock = F.source("stock", key=("shop", "item"), time="at", created="known_at", zone="Europe/Paris")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = open_store(tmp_path)
    yield made
    made.close()


def sale(order: int, **more: Any) -> dict[str, Any]:
    return {"shop": "a", "order": order, "at": after(order), "price": 1.0, **more}


def level(known: float, units: int, **more: Any) -> dict[str, Any]:
    return {"shop": "a", "item": 1, "at": after(1), "known_at": after(known), "units": units, **more}


def table(store: FeatureStore, source: F.Source) -> pl.DataFrame:
    store.flush()
    return EventTable(store._home / "tables" / "sources" / source.name).read()


def test_a_row_that_became_known_later_is_a_version_and_the_same_again_is_not(store: FeatureStore) -> None:
    first = store.ingest(stock, [level(2, 5), level(2, 5), level(3, 6)])
    assert (first.added, first.duplicates) == (2, 1)
    assert store.ingest(stock, [level(2, 5), level(4, 7)]).added == 1
    for _ in range(2):
        store.push(stock, [level(4, 7), level(5, 8), level(5, 8)])
        store.flush()
    held = table(store, stock)
    assert sorted(held["units"].to_list()) == [5, 6, 7, 8]
    assert held["_id"].n_unique() == 1
    other = store.ingest(stock, [level(2, 5, item=2)])
    assert other.added == 1
    assert table(store, stock)["_id"].n_unique() == 2


def test_times_without_a_zone_are_in_that_of_the_source(store: FeatureStore) -> None:
    naive = {"at": "2013-09-01T02:00:00", "known_at": after(9).replace(tzinfo=None)}
    store.ingest(stock, [level(2, 1, **naive)])
    store.push(stock, [level(2, 1, **naive)])
    held = table(store, stock)
    assert held["at"].to_list() == [after(0)]
    assert held["known_at"].to_list() == [after(9 - 7200)]


@pytest.mark.parametrize("text", ["2013-03-31T02:30:00", "2013-10-27T02:30:00"])
def test_a_time_that_the_clock_skips_or_has_twice_is_refused_with_its_row(store: FeatureStore, text: str) -> None:
    store.ingest(stock, [level(2, 1)])
    for add in (store.ingest, store.push):
        with pytest.raises(BatchRefused, match=r"at: .*is no single moment in Europe/Paris.*\(1 rows: 1\)"):
            add(stock, [level(2, 1, at="2013-09-01T00:00:00"), level(2, 1, at=text)])
    assert store.ingest(stock, [level(2, 1, at=text + "+01:00")]).added == 1


def test_a_source_needs_what_it_names(store: FeatureStore) -> None:
    with pytest.raises(BatchRefused, match="known_at: when a row became known of the source, is missing"):
        store.ingest(stock, [{"shop": "a", "item": 1, "at": after(1), "units": 1}])
    with pytest.raises(BatchRefused, match=r"known_at: is null \(1 rows: 0\)"):
        store.ingest(stock, [level(1, 1, known_at=None), level(1, 1)])
    store.ingest(stock, [level(1, 1)])
    with pytest.raises(BatchRefused, match=r"known_at: is missing \(1 rows: 0\)"):
        store.push(stock, {"shop": "a", "item": 1, "at": after(1), "units": 1})


def test_a_new_column_is_added_only_when_asked_and_older_events_stay_what_they_are(store: FeatureStore) -> None:
    whole = F.source("whole", key="shop", time="at")
    old = [{"shop": "a", "at": after(i), "price": float(i)} for i in (1, 2)]
    new = [{"shop": "a", "at": after(3), "price": 3.0, "colour": "red"}]
    store.ingest(whole, old)
    with pytest.raises(BatchRefused, match='colour: the table has no such column; new_columns="add" adds it'):
        store.ingest(whole, new)
    with pytest.raises(BatchRefused, match="colour: the table has no such column"):
        store.push(whole, new)
    with pytest.raises(InvalidInput, match="new_columns='yes' must be one of 'refuse', 'add'"):
        store.ingest(whole, new, new_columns="yes")  # type: ignore[arg-type]
    with pytest.raises(BatchRefused, match="colour: has only nulls, so it has no type yet"):
        store.ingest(whole, [{**old[0], "colour": None}], new_columns="add")
    assert store.ingest(whole, new, new_columns="add").added == 1
    again = store.ingest(whole, [{**row, "colour": None} for row in old])
    assert (again.added, again.duplicates) == (0, 2)
    store.push(whole, [{"shop": "a", "at": after(4), "price": 4.0, "colour": "blue"}])
    with pytest.raises(BatchRefused, match="colour: is missing; the table has it as String"):
        store.ingest(whole, old)
    assert table(store, whole).sort("at")["colour"].to_list() == [None, None, "red", "blue"]


def test_a_process_that_knows_the_old_columns_takes_the_new_ones(tmp_path: Path) -> None:
    one, other = open_store(tmp_path), open_store(tmp_path)
    one.ingest(sales, [sale(1)])
    other.push(sales, sale(2))
    one.ingest(sales, [sale(3, colour="red")], new_columns="add")
    other.push(sales, sale(4, colour="blue"))
    assert table(one, sales).sort("order")["colour"].to_list() == [None, None, "red", "blue"]
    one.close()
    other.close()


def test_bad_rows_are_set_aside_with_their_reasons_when_asked(store: FeatureStore) -> None:
    store.ingest(sales, [sale(0)])
    batch = pl.DataFrame(
        {
            "shop": ["a", None, "a", None],
            "order": [1, 2, 3, 4],
            "at": ["2013-09-01T00:00:01Z", "2013-09-01T00:00:02Z", "soon", "2013-09-01T00:00:04Z"],
            "price": ["1.5", "2", "3", "dear"],
        }
    )
    with pytest.raises(BatchRefused, match="price: is String, and the table has it as Float64"):
        store.ingest(sales, batch)
    for _ in range(2):
        done = store.ingest(sales, batch, on_bad="quarantine")
    assert (done.rows, done.quarantined, done.added) == (4, 3, 0)
    assert table(store, sales).sort("order").select("order", "price").rows() == [(0, 1.0), (1, 1.5)]
    bad = store.quarantined(sales)
    assert bad["_position"].to_list() == [1, 2, 3]
    assert bad["_reason"].to_list() == [
        "shop: is null",
        "at: cannot be read as ISO 8601 with a zone, as in 2013-09-01T10:00:00Z",
        "price: cannot be read as Float64; shop: is null",
    ]
    assert bad["row"][1] == '{"shop": "a", "order": 3, "at": "soon", "price": "3"}'
    assert bad["_batch_id"].n_unique() == 1


def test_what_is_wrong_with_a_whole_batch_is_refused_even_with_a_quarantine(store: FeatureStore) -> None:
    store.ingest(sales, [sale(0)])
    with pytest.raises(BatchRefused, match="price: is missing; the table has it as Float64"):
        store.ingest(sales, [{"shop": "a", "order": 1, "at": after(1)}], on_bad="quarantine")
    with pytest.raises(InvalidInput, match="on_bad='drop' must be one of 'refuse', 'quarantine'"):
        store.ingest(sales, [sale(1)], on_bad="drop")  # type: ignore[arg-type]
    assert store.quarantined(sales).is_empty()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_data, "CHUNK_ROWS", 10)
    monkeypatch.setattr(staging, "BUCKET_ROWS", 15)


@pytest.mark.slow
@pytest.mark.usefixtures("small_pieces")
def test_a_batch_in_pieces_lands_wholly_and_once(store: FeatureStore) -> None:
    rows = pl.DataFrame([sale(i % 60) for i in range(100)])
    done = store.ingest(sales, rows.to_arrow().to_reader(max_chunksize=7))
    assert (done.rows, done.added, done.duplicates, done.table_version) == (100, 60, 40, 0)
    again = store.ingest(sales, pl.concat([rows, pl.DataFrame([sale(70)])]))
    assert (again.added, again.table_version) == (1, 1)
    assert sorted(table(store, sales)["order"].to_list()) == [*range(60), 70]
    assert not list((store._home / "tables" / "staging").iterdir())


@pytest.mark.usefixtures("small_pieces")
def test_a_batch_that_is_bad_in_its_last_piece_is_refused_whole_with_all_that_is_wrong(store: FeatureStore) -> None:
    rows = pl.DataFrame([sale(i) for i in range(50)])
    bad = rows.with_columns(shop=pl.when(pl.col("order").is_in([3, 44, 45])).then(None).otherwise("shop"))
    with pytest.raises(BatchRefused, match=r"shop: is null \(3 rows: 3, 44, 45\)"):
        store.ingest(sales, bad)
    assert store.datasets() == []
    done = store.ingest(sales, bad, on_bad="quarantine")
    assert (done.added, done.quarantined) == (47, 3)
    assert store.quarantined(sales)["_position"].to_list() == [3, 44, 45]


def test_a_batch_that_met_other_columns_at_its_table_is_a_conflict(tmp_path: Path, monkeypatch: Any) -> None:
    one, other = open_store(tmp_path), open_store(tmp_path)
    read = staging.Stage.read

    def while_other_writes(stage: Any, data: Any, staged: Any) -> None:
        read(stage, data, staged)
        monkeypatch.setattr(staging.Stage, "read", read)
        other.ingest(sales, [sale(1, price="one")])

    monkeypatch.setattr(staging.Stage, "read", while_other_writes)
    with pytest.raises(Conflict, match="another writer changed the columns of source 'sales': ingest the batch again"):
        one.ingest(sales, [sale(2)])
    assert table(one, sales)["order"].to_list() == [1]
    one.close()
    other.close()


def test_a_batch_whose_bad_rows_were_set_aside_before_a_crash_lands_when_it_comes_again(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ingest(sales, [sale(0)])
    batch = [sale(1), sale(2, shop=None)]

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(EventTable, "add", crash)
        with pytest.raises(RuntimeError, match="killed"):
            store.ingest(sales, batch, on_bad="quarantine")
    assert (store.quarantined(sales).height, table(store, sales).height) == (1, 1)
    assert store.ingest(sales, batch, on_bad="quarantine").added == 1
    assert (store.quarantined(sales).height, table(store, sales).height) == (1, 2)
