"""Training sets: which column plays which part, what is refused, and the file that workers map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mlplat import features as F
from mlplat.errors import BatchRefused, InvalidInput
from mlplat.features.store import FeatureStore
from mlplat.model.signature import Field
from tests.features.support import after, open_store

sales = F.source("sales", key="shop", time="at")


@F.view(sales)
class hourly:
    sold = F.count(window="1h")
    mean = F.mean("price", window="1h")


@F.view(sales)
class newest:
    kind: str = F.latest("kind")
    dear: bool = F.latest("dear")


LABELS = pl.DataFrame(
    {
        "shop": ["a", "b", "a", "a"],
        "asked_at": [after(5), after(5), after(0), after(5)],
        "size": pl.Series([1, None, 3, 1], dtype=pl.Int32),
        "late": [True, False, True, True],
    }
)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = open_store(tmp_path)
    made.ingest(sales, [{"shop": "a", "at": after(i), "price": 0.1 * i, "kind": "ä", "dear": i > 1} for i in range(3)])
    made.apply(hourly, newest)
    return made


def make(store: FeatureStore, labels: Any = LABELS, **changes: Any) -> F.TrainingSet:
    arguments: dict[str, Any] = {"label": "late", "time": "asked_at", "request": None, "name": "late", **changes}
    return store.training_set(arguments.pop("name"), labels, [hourly, newest], **arguments)


def test_every_label_is_a_row_in_its_place(store: FeatureStore) -> None:
    made = make(store)
    table = pl.from_arrow(made.table())
    assert isinstance(table, pl.DataFrame)
    assert table.columns == [
        "shop", "asked_at", "late", "size", "hourly.sold", "hourly.mean", "newest.kind", "newest.dear"
    ]  # fmt: skip
    assert table["shop"].to_list() == LABELS["shop"].to_list()
    assert table["hourly.sold"].to_list() == [3, 0, 0, 3]
    assert table["newest.kind"].to_list() == ["ä", None, "ä", "ä"]
    assert (made.rows, made.data_versions) == (4, {"sales": 0})
    assert [(ref.view, ref.version) for ref in made.features] == [(v.name, v.version) for v in (hourly, newest)]
    store.close()


def test_a_request_field_is_required_if_it_was_never_null(store: FeatureStore) -> None:
    made = make(store, request=["shop", "size"])
    assert made.entities == (Field(name="shop", dtype="string"),)
    assert made.request == (Field(name="shop", dtype="string", required=True), Field(name="size", dtype="int64"))
    assert make(store).request == (Field(name="size", dtype="int64"),)
    assert made.table().schema.field("size").type == pa.int64()
    store.close()


@pytest.mark.slow
def test_the_same_inputs_give_the_same_snapshot_and_others_another(store: FeatureStore) -> None:
    one = make(store)
    assert make(store, pl.concat([LABELS.head(1), LABELS.tail(3)], rechunk=False)) == one
    assert len(list(one.path.parent.glob("*.arrow"))) == 1
    assert make(store, LABELS.with_columns(size=pl.lit(9))).snapshot != one.snapshot
    assert make(store, LABELS.with_columns(size=pl.col("size").fill_null(0))).snapshot != one.snapshot
    store.ingest(sales, [{"shop": "a", "at": after(3), "price": 9.0, "kind": "b", "dear": True}])
    assert make(store).snapshot != one.snapshot
    store.close()


def test_the_file_is_mapped_and_not_copied(store: FeatureStore) -> None:
    made = make(store, pl.concat([LABELS] * 2000))
    before = pa.total_allocated_bytes()
    table = made.table()
    assert pa.total_allocated_bytes() - before < table.nbytes / 100
    assert table.num_rows == 8000
    assert table.column("late").num_chunks == 1
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (LABELS.drop("late"), {}, "the labels have no column 'late'; they have shop, asked_at, size"),
        (LABELS.drop("shop"), {}, "view 'hourly' is keyed by 'shop'"),
        (LABELS.clear(), {}, "there are no labels"),
        (LABELS.with_columns(late=pl.Series([True, None, None, True])), {}, r"late: the label is null; .* \(2 rows: 1, 2\)"),
        (LABELS.with_columns(late=pl.Series([0.0, float("nan"), 1.0, 1.0])), {}, "late: the label is null"),
        (LABELS.with_columns(asked_at=pl.Series([None, *[after(1)] * 3])), {}, r"asked_at: the time is null; .* \(1 rows: 0\)"),
        (LABELS, {"label": "asked_at"}, "label and time are both 'asked_at'"),
        (LABELS, {"request": ["colour"]}, "request field 'colour' is no column of the labels"),
        (LABELS, {"request": ["hourly.sold"]}, "request field 'hourly.sold' is no column of the labels"),
        (LABELS, {"request": ["late"]}, "request field 'late' is the label; a caller cannot send it"),
        (LABELS, {"request": ["asked_at"]}, "request field 'asked_at' is the time"),
        (LABELS.with_columns(size=pl.lit([1])), {}, "column 'size' is List.*, which a model cannot take: cast it"),
        (LABELS, {"name": "../late"}, "training set name '../late': use letters"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_learnt_from_are_refused(
    store: FeatureStore, labels: pl.DataFrame, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((InvalidInput, BatchRefused), match=message):
        make(store, labels, **changes)
    assert not list((store._home / "training_sets").glob("*/*.arrow"))
    store.close()
