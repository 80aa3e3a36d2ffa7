"""One event at a time: the checks of a batch without a table, fast enough for a request path.

Gives the same normal form as `validate.clean`; a property test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from mlplat.errors import BatchRefused, Problem
from mlplat.features.definitions import Source
from mlplat.features.ids import row_id, value_id
from mlplat.features.tables import ID
from mlplat.features.times import time_us, to_us

__all__ = ["INFINITE", "NO_COLUMN", "Row", "normal_rows", "sorted_out", "to_frame", "to_us"]

NO_COLUMN = "the table has no such column"
INFINITE = "is infinite; a table has finite numbers and nulls"

Row = dict[str, Any]
"""A row in normal form: times are microseconds UTC, and `_id` is there."""


def normal_rows(source: Source, rows: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> list[Row]:
    """Raises `BatchRefused` with every problem; then nothing of the push has happened."""
    good, problems = sorted_out(source, rows, schema)
    if problems:
        raise BatchRefused(f"source {source.name!r}", problems)
    return good


def sorted_out(
    source: Source, rows: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]
) -> tuple[list[Row], list[Problem]]:
    """The good rows in normal form, and what is wrong with the others: one problem for each field of a row."""
    good: list[Row] = []
    problems: list[Problem] = []
    for at, row in enumerate(rows):
        found = len(problems)
        done = _row(source, row, at, schema, problems)
        if len(problems) == found:
            done[ID] = _id(source, done)
            good.append(done)
    return good, problems


def _row(
    source: Source, row: Mapping[str, Any], at: int, schema: Mapping[str, pl.DataType], problems: list[Problem]
) -> Row:
    problems += [
        Problem(field=str(n), message=NO_COLUMN, rows=(at,), count=1)
        for n in sorted(row.keys() - schema.keys(), key=str)
    ]
    done: Row = {}
    for name, dtype in schema.items():
        value = row.get(name)
        try:
            done[name] = None if value is None else _converted(source, name, dtype, value)
        except (TypeError, ValueError, OverflowError) as error:
            problems.append(Problem(field=name, message=str(error), rows=(at,), count=1))
            continue
        if done[name] is None and name in source.required:
            message = "is null" if name in row else "is missing"
            problems.append(Problem(field=name, message=message, rows=(at,), count=1))
    return done


def _id(source: Source, row: Row) -> int:
    if source.id is not None:
        return value_id(row[source.id])
    return row_id(row if source.created is None else {key: row[key] for key in source.key})


def _converted(source: Source, name: str, dtype: pl.DataType, value: Any) -> Any:
    if dtype == pl.Datetime:
        return time_us(value, source.zone if name in (source.time, source.created) else None)
    return _CONVERT[dtype](value.item() if isinstance(value, np.generic) else value)


def _float(value: Any) -> float | None:
    if type(value) is int:
        value = float(_int(value))
    if type(value) is not float:
        raise TypeError(f"is {value!r}, and the table has floats")
    if math.isinf(value):
        raise ValueError(INFINITE)
    return None if math.isnan(value) else value


def _int(value: Any) -> int:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    raise TypeError(f"is {value!r}, and the table has 64-bit integers")


def _str(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"is {value!r}, and the table has text")
    if not value.isascii():
        value.encode()  # half of a surrogate pair is no text
    return value


def _bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise TypeError(f"is {value!r}, and the table has true or false")


_CONVERT: Mapping[pl.DataType, Any] = {
    pl.Float64(): _float,
    pl.Int64(): _int,
    pl.String(): _str,
    pl.Boolean(): _bool,
}


def to_frame(rows: Sequence[Row], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows in normal form as a table in normal form; a column that a row lacks is null there."""
    columns = [_series(name, [row.get(name) for row in rows], dtype) for name, dtype in schema.items()]
    return pl.DataFrame([*columns, pl.Series(ID, [row[ID] for row in rows], dtype=pl.Int64, strict=True)])


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, dtype=pl.Int64, strict=True).cast(dtype)
    return pl.Series(name, values, dtype=dtype, strict=True)
