"""What an online read gives: a matrix, a table, and a status, of one or several views."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from mlplat import features as F
from mlplat.errors import Corrupt, InvalidInput
from mlplat.features.codec import entity_key
from mlplat.features.definitions import AnyView
from mlplat.features.lmdb_store import LmdbStore
from mlplat.features.reader import open_reader
from mlplat.features.store import FeatureStore
from tests.features.support import START, START_US, after, open_store

sales = F.source("sales", key="shop", time="at", id="order")
TYPES = {"price": float, "stock": int, "open": bool, "name": str}


def latest(view: str, columns: list[str], **arguments: Any) -> Any:
    body = {column: F.latest(column) for column in columns}
    annotations = {column: TYPES[column] for column in columns}
    return F.view(sales, **arguments)(type(view, (), {**body, "__annotations__": annotations, "age": F.age()}))


numbers = latest("numbers", ["price", "stock", "open"], ttl="1h")
named = latest("named", ["name", "price"])
fleeting = latest("fleeting", ["name", "price"], ttl="1h")


@F.view(sales)
class hourly:
    sold = F.count(window="1h")
    mean = F.mean("price", window="1h")


@F.derived(numbers, hourly, request={"factor": float})
class scaled:
    """Over a view on rows, a view with windows, and the request."""

    dear: float
    label: str

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        dear = pl.col("numbers.price").fill_null(0.0) * pl.col("factor") + pl.col("hourly.sold")
        return rows.select(dear=dear, label=pl.format("{}@{}", "shop", pl.col("at").dt.hour()))


@F.derived(scaled)
class doubled:
    double: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(double=pl.col("scaled.dear") * 2)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = open_store(tmp_path)
    row = {"order": 1, "at": after(1), "price": 2.5, "stock": 3, "open": True, "name": "\u00e9"}
    gaps = {"order": 2, "at": after(2), "price": None, "stock": None, "open": None, "name": None}
    store.ingest(sales, [{**row, "shop": "full"}, {**gaps, "shop": "gaps"}])
    store.apply(numbers, named, fleeting, hourly, scaled, doubled)
    return store


def test_a_matrix_has_every_number_and_nan_for_null(store: FeatureStore) -> None:
    found = store.online(numbers, {"shop": ["full", "gaps", "none"]}, at=after(3))
    assert found.names == ("price", "stock", "open", "age")
    assert found.status == {"numbers": ["ok", "ok", "missing"]}
    nan = math.nan
    np.testing.assert_equal(found.numpy(), [[2.5, 3.0, 1.0, 2.0], [nan, nan, nan, 1.0], [nan] * 4])
    late = store.online(numbers, {"shop": ["full"]}, at=after(3_602))
    np.testing.assert_equal((late.numpy(), late.status), ([[nan] * 4], {"numbers": ["expired"]}))
    store.close()


def test_a_table_has_keys_features_in_their_types_and_status(store: FeatureStore) -> None:
    table = store.online(named, {"shop": np.array(["full", "gaps"])}, at=after(3)).to_arrow()
    assert table.to_pylist() == [
        {"shop": "full", "name": "\u00e9", "price": 2.5, "age": 2.0, "status": "ok"},
        {"shop": "gaps", "name": None, "price": None, "age": 1.0, "status": "ok"},
    ]
    typed = store.online("numbers", {"shop": ["full"]}, at=after(3)).to_arrow().schema
    assert [typed.field(n).type for n in ("price", "stock", "open")] == [pa.float64(), pa.int64(), pa.bool_()]
    store.close()


def test_several_views_are_read_at_once_by_their_full_names(store: FeatureStore) -> None:
    found = store.online([numbers, "hourly", named.ref], {"shop": ["full", "none"]}, at=after(3))
    assert found.to_arrow().column_names == [
        "shop", "numbers.price", "numbers.stock", "numbers.open", "numbers.age", "hourly.sold", "hourly.mean",
        "named.name", "named.price", "named.age", "status.numbers", "status.hourly", "status.named",
    ]  # fmt: skip
    assert found.to_polars()["hourly.sold"].to_list() == [1, 0]
    with pytest.raises(InvalidInput, match="view 'named' has text features, which no matrix holds: 'name'"):
        found.numpy()
    assert store.online([numbers], {"shop": ["full"]}).names[0] == "numbers.price"
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True], ids=["null", "keep"])
@pytest.mark.parametrize("view", [numbers, named, fleeting, hourly, scaled, doubled], ids=lambda view: view.name)
def test_few_rows_and_many_are_read_alike_and_as_offline(
    store: FeatureStore, tmp_path: Path, view: AnyView, keep: bool
) -> None:
    shops = ["full", "gaps", "none", None, "full"] * 4
    moments = [after(i % 4 + 3_599 * (i % 3 == 2)) + timedelta(microseconds=i) for i in range(len(shops))]
    frame = pl.DataFrame({"shop": shops, "factor": [1.5] * len(shops), "at": moments})
    offline = store.join(frame, [view], time="at", keep_expired=keep)
    kept = {view.name} if keep else ()
    reader = open_reader(tmp_path)
    at_us = [START_US + round((moment - START) / timedelta(microseconds=1)) for moment in moments]
    keys: dict[str, list[Any]] = {"shop": shops, "factor": [1.5] * len(shops)}
    many = reader.read([view.ref], keys, at_us, kept)
    assert ("expired" in many.status[view.name]) == (view not in (named, hourly))
    for i in range(len(shops)):
        alone = {name: values[i : i + 1] for name, values in keys.items()}
        one = reader.read([view.ref], alone, at_us[i : i + 1], kept)
        assert one.status[view.name] == [many.status[view.name][i]]
        for column in view.ref.columns():
            assert repr(one.columns[column][0]) == repr(many.columns[column][i]) == repr(offline[column][i])
    reader.close()
    store.close()


def test_a_derived_view_is_as_missing_as_its_parents(store: FeatureStore) -> None:
    keys = {"shop": ["full", "none"], "factor": [2.0, 2.0]}
    found = store.online(doubled, keys, at=after(3)).to_arrow()
    assert found["double"].to_pylist() == [12.0, 0.0]
    assert found["status"].to_pylist() == ["ok", "missing"]
    assert store.online(doubled, keys, at=after(3_602)).status == {"doubled": ["expired", "missing"]}
    with pytest.raises(InvalidInput, match="request field 'factor' is float64, and came as something else"):
        store.online(scaled, {"shop": ["full"], "factor": ["two"]})
    with pytest.raises(InvalidInput, match="view 'scaled' is keyed by shop, factor; 'factor' is not given"):
        store.online(scaled, {"shop": ["full"]})
    store.close()


def test_keys_that_differ_in_length_or_kind_are_refused(store: FeatureStore) -> None:
    with pytest.raises(InvalidInput, match=r"the keys of view 'scaled' differ in length: \[1, 2\]"):
        store.online(scaled, {"shop": ["full"], "factor": [1.0, 2.0]})
    with pytest.raises(InvalidInput, match=r"key 2\.5 is float, and a key is text"):
        store.online(numbers, {"shop": [2.5]})
    with pytest.raises(InvalidInput, match="key 'shop': give a list of entities"):
        store.online(numbers, {"shop": 7})  # type: ignore[dict-item]
    assert store.online(numbers, {"shop": []}).numpy().shape == (0, 4)
    assert store.online(hourly, {"shop": []}).to_arrow().num_rows == 0
    store.close()


def test_a_blob_that_is_not_the_views_is_corrupt(store: FeatureStore, tmp_path: Path) -> None:
    lmdb = LmdbStore(tmp_path / "online")
    lmdb.update([entity_key("numbers", numbers.version, ["cut"])], lambda _: [bytes(20)])
    lmdb.close()
    with pytest.raises(Corrupt, match="a row blob of the online store has 20 bytes"):
        store.online(numbers, {"shop": ["full", "cut"]}, at=after(3))
    store.close()
