"""Sketches of tables."""

from __future__ import annotations

import polars as pl

from mlplat.stats import TableSketch


def test_a_column_that_one_table_lacks_is_null_in_its_rows() -> None:
    old, new = pl.DataFrame({"a": [1, 2]}), pl.DataFrame({"a": [3], "b": ["x"]})
    for merged in (TableSketch.of(old).merge(TableSketch.of(new)), TableSketch.of(new).merge(TableSketch.of(old))):
        assert merged.rows == 3
        assert (merged.columns["b"].rows, merged.columns["b"].nulls) == (3, 2)
        assert (merged.columns["a"].low, merged.columns["a"].high) == (1, 3)


def test_a_table_survives_its_bytes() -> None:
    sketch = TableSketch.of(pl.DataFrame({"a": [1.5, None], "b": ["x", ""], "c": [True, False]}))
    assert TableSketch.from_bytes(sketch.to_bytes()) == sketch


def test_a_table_without_rows_merges_into_any() -> None:
    rows = pl.DataFrame({"a": [1.5, None]})
    empty = TableSketch.of(rows.clear())
    assert empty.merge(TableSketch.of(rows)) == TableSketch.of(rows)
    assert empty.rows == 0
