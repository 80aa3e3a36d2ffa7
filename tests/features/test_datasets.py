"""What a home holds, and its upkeep: compaction, retention, deletion."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import InvalidInput, NotFound, Refused
from mlplat.features.store import FeatureStore
from mlplat.features.tables import EventTable
from tests.features.support import START, open_store

sales = F.source("sales", key="shop", time="at", id="order")


@F.view(sales, ttl="2d")
class doubled:
    double: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(double=pl.col("price") * 2)


@F.view(sales)
class daily:
    sold = F.count(window="1d")


@F.view(sales)
class newest:
    price: float = F.latest("price")


def sale(order: int, days: float) -> dict[str, Any]:
    return {"shop": "a", "order": order, "at": START - timedelta(days=days), "price": float(order)}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = open_store(tmp_path)
    for order, days in enumerate((9, 5, 3, 1)):
        made.ingest(sales, [sale(order, days)])
    yield made
    made.close()


def orders(store: FeatureStore, *, after_batch: int = -1) -> list[int]:
    store.flush()
    table = EventTable(store._home / "tables" / "sources" / "sales")
    return sorted(table.read(["order"], after_batch=after_batch)["order"].to_list())


def test_a_data_set_says_what_it_holds(store: FeatureStore) -> None:
    store.apply(daily)
    store.push(sales, sale(4, 0.5))
    store.ingest(sales, [{**sale(5, 0), "shop": None}], on_bad="quarantine")
    found = store.dataset("sales")
    assert store.datasets() == ["sales"]
    assert (found.name, found.source, found.rows, found.quarantined, found.views) == ("sales", sales, 5, 1, ["daily"])
    assert (found.first, found.last) == (START - timedelta(days=9), START - timedelta(days=0.5))
    assert found.columns == {
        "shop": "String", "order": "Int64", "at": "Datetime(time_unit='us', time_zone='UTC')", "price": "Float64"
    }  # fmt: skip
    assert [(v.number, v.operation) for v in found.versions] == [(n, "WRITE") for n in range(5)]
    assert (found.files, found.small_files, found.compacted) == (5, 5, False)
    assert found.size_bytes > 0
    with pytest.raises(NotFound, match=r"There is no source 'sale'. Did you mean 'sales'"):
        store.dataset("sale")


def test_a_source_without_events_is_a_data_set_without_rows(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.datasets() == []
    store.apply(daily)
    found = store.dataset(sales)
    assert (found.rows, found.first, found.columns, found.versions, found.compacted) == (0, None, {}, [], True)
    store.compact(sales)
    assert store.retain(sales, "30d") == 0
    store.close()


@pytest.mark.slow
def test_compaction_changes_no_event_and_no_batch(store: FeatureStore) -> None:
    store.apply(doubled)
    before = orders(store)
    store.compact(sales)
    found = store.dataset(sales)
    assert (found.files, found.compacted, found.rows) == (1, True, 4)
    assert orders(store) == before
    assert [orders(store, after_batch=n) for n in (0, 2, 3)] == [[1, 2, 3], [3], []]
    store.ingest(sales, [sale(9, 0)])
    assert store.ingest(sales, [sale(3, 1), sale(9, 0)]).added == 0
    frame = pl.DataFrame({"shop": ["a"], "at": [START]})
    assert store.join(frame, [doubled], time="at")["doubled.double"].to_list() == [18.0]


def test_only_files_of_newer_batches_are_opened(store: FeatureStore) -> None:
    folder = store._home / "tables" / "sources" / "sales"
    store.compact(sales)
    for file in folder.glob("*.parquet"):
        file.unlink()
    store.ingest(sales, [sale(9, 0)], batch_id="new")
    assert orders(store, after_batch=4) == [9]


@pytest.mark.slow
def test_retention_takes_out_old_events_wherever_they_are(store: FeatureStore) -> None:
    store.apply(doubled, daily)
    frame = pl.DataFrame({"shop": ["a"], "at": [START - timedelta(days=4)]})
    assert store.join(frame, [doubled], time="at")["doubled.double"].to_list() == [2.0]
    assert store.retain(sales, "4d") == 2
    assert store.retain(sales, "4d") == 0
    assert orders(store) == [2, 3]
    assert store.join(frame, [doubled], time="at")["doubled.double"].to_list() == [None]
    assert store.dataset(sales).rows == 2
    assert store.ingest(sales, [sale(9, 0)]).added == 1
    assert orders(store, after_batch=4) == [9]


@pytest.mark.slow
def test_retention_keeps_what_views_look_back_to(store: FeatureStore) -> None:
    store.apply(doubled, daily)
    with pytest.raises(Refused, match="keep='1d' is shorter than what view 'doubled' looks back"):
        store.retain(sales, "1d")
    store.apply(newest)
    with pytest.raises(Refused, match="view 'newest' reads the newest row however old it is; declare a ttl"):
        store.retain(sales, "90d")
    with pytest.raises(InvalidInput, match="duration 'soon'"):
        store.retain(sales, "soon")
    assert orders(store) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_source_is_deleted_once_no_view_is_made_of_it(store: FeatureStore) -> None:
    store.apply(daily, newest)
    store.push(sales, sale(8, 0))
    with pytest.raises(Refused, match="source 'sales' is used by view daily, newest: retire every version"):
        store.delete(sales)
    store.retire(daily)
    store.retire(newest)
    store.push(sales, sale(9, 0))
    store.delete(sales)
    assert store.datasets() == []
    store.flush()
    for call in (store.delete, store.compact, lambda s: store.retain(s, "1d")):
        with pytest.raises(NotFound, match="There is no source 'sales'"):
            call(sales)
    other = F.source("sales", key="town", time="at")
    store.push(other, {"town": "x", "at": START})
    assert store.dataset("sales").rows == 1
    with pytest.raises(Refused, match="source 'sales' is registered as key=town"):
        store.delete(sales)
