"""Slices are parts of the rows, by value, by quarter and by null."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mlplat.model.signature import Field
from mlplat.train import slices as module
from mlplat.train.slices import slices

ROWS = 1_000


def test_texts_flags_numbers_and_nulls_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", 2)
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "city": pa.array(random.choice(["a", "b", "c", None], ROWS, p=[0.4, 0.3, 0.15, 0.15])),
            "flag": pa.array(random.random(ROWS) < 0.3),
            "size": pa.array(random.normal(size=ROWS), mask=random.random(ROWS) < 0.2),
            "zero": pa.array(np.zeros(ROWS)),
        }
    )
    fields = [("city", "string"), ("flag", "bool"), ("size", "float64"), ("zero", "float64")]
    found = dict(slices(table, tuple(Field(name=n, dtype=d) for n, d in fields)))  # type: ignore[arg-type]
    assert {name for name in found if name.startswith("city")} == {"city is null", "city = 'a'", "city = 'b'"}
    assert {name for name in found if name.startswith("flag")} == {"flag = False", "flag = True"}
    assert not any(name.startswith("zero") for name in found)
    quarters = [rows for name, rows in found.items() if name.startswith("size in")]
    assert len(quarters) == 4
    assert sum(map(len, quarters)) + len(found["size is null"]) == ROWS
    assert max(map(len, quarters)) - min(map(len, quarters)) <= 1
    assert table["city"].take(pa.array(found["city = 'a'"])).unique().to_pylist() == ["a"]


def test_small_parts_and_the_whole_are_none() -> None:
    table = pa.table({"city": ["a"] * 950 + ["b"] * 50})
    assert [name for name, _ in slices(table, (Field(name="city", dtype="string"),))] == ["city = 'a'"]
    assert not list(slices(pa.table({"city": ["a"] * 200}), (Field(name="city", dtype="string"),)))
