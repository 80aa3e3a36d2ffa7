"""Identities: of a value and of a column alike, stable for ever, and without the nulls."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.features.ids import row_id, row_ids, value_id, value_ids

COLUMNS: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "text": (pl.String(), st.text(max_size=5)),
    "int": (pl.Int64(), st.integers(-(2**63), 2**63 - 1)),
    "float": (pl.Float64(), st.floats(allow_nan=False)),
    "bool": (pl.Boolean(), st.booleans()),
}
rows = st.fixed_dictionaries({name: st.one_of(st.none(), values) for name, (_, values) in COLUMNS.items()})


@pytest.mark.slow
@given(st.lists(rows, max_size=6))
def test_a_row_and_a_column_of_rows_have_the_same_identities(given_rows: list[dict[str, Any]]) -> None:
    frame = pl.DataFrame(given_rows, schema={name: dtype for name, (dtype, _) in COLUMNS.items()})
    assert row_ids(frame, frame.columns).tolist() == [row_id(row) for row in given_rows]
    assert row_ids(frame, ["int", "bool"]).tolist() == [row_id({k: r[k] for k in ("bool", "int")}) for r in given_rows]
    for name in COLUMNS:
        column = frame[name].drop_nulls()
        assert value_ids(column).tolist() == [value_id(value) for value in column.to_list()]


STORED = [
    -2152535657050944081,
    -1956407806741107680,
    3405396810240292928,
    -5426141060434712860,
    -7995527694508729151,
    5196802822362493915,
    -840316820457468307,
]
ROW = -1121643144270283365


def test_identities_stay_what_they_are_in_the_tables_of_today() -> None:
    assert [value_id(v) for v in (0, -1, "a", "", True, -0.0, 0.5)] == STORED
    assert row_id({"a": 1, "b": "x"}) == row_id({"b": "x", "c": None, "a": 1}) == ROW


def test_different_values_have_different_identities() -> None:
    assert len(set(value_ids(pl.Series(range(-5_000, 5_000))).tolist())) == 10_000
    several = [row_id(r) for r in ({"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {"a": "1"}, {"a": -1}, {"a": 1.0})]
    assert len(set(several)) == len(several)
