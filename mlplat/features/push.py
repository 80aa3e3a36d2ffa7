"""One event at a time: the checks of a batch without a table, fast enough for a request path.

Gives the same normal form as `validate.clean`; a property test compares the two.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import polars as pl

from mlplat.clock import US_PER_S
from mlplat.errors import BatchRefused, Problem
from mlplat.features.definitions import Source
from mlplat.features.tables import ID

Row = dict[str, Any]
"""A row in normal form: times are microseconds UTC, and `_id` is there."""


def hash_id(value: Any) -> int:
    """A stable 64-bit hash of an event id, or of a whole row as a dict in order of its names."""
    return int.from_bytes(hashlib.blake2b(orjson.dumps(value), digest_size=8).digest(), "little", signed=True)


def normal_rows(source: Source, rows: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> list[Row]:
    """Raises `BatchRefused` with every problem; then nothing of the push has happened."""
    required = {*source.key, source.time, *([source.id] if source.id else [])}
    problems: list[Problem] = []
    done = [_row(row, i, schema, required, problems) for i, row in enumerate(rows)]
    if problems:
        raise BatchRefused(f"source {source.name!r}", problems)
    for row in done:
        row[ID] = hash_id(row[source.id] if source.id else dict(sorted(row.items())))
    return done


def _row(
    row: Mapping[str, Any], at: int, schema: Mapping[str, pl.DataType], required: set[str], problems: list[Problem]
) -> Row:
    for name in row.keys() - schema.keys():
        problems.append(Problem(field=name, message="the table has no such column", rows=(at,), count=1))
    done: Row = {}
    for name, dtype in schema.items():
        value = row.get(name)
        if value is None:
            if name in required:
                message = "is null" if name in row else "is missing"
                problems.append(Problem(field=name, message=message, rows=(at,), count=1))
            done[name] = None
            continue
        try:
            done[name] = _CONVERT[dtype](value)
        except (TypeError, ValueError) as error:
            problems.append(Problem(field=name, message=str(error), rows=(at,), count=1))
    return done


def _float(value: Any) -> float | None:
    if type(value) is float:
        return None if math.isnan(value) else value
    if type(value) is int:
        return float(value)
    raise TypeError(f"is {value!r}, and the table has floats")


def _int(value: Any) -> int:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    raise TypeError(f"is {value!r}, and the table has 64-bit integers")


def _str(value: Any) -> str:
    if type(value) is str:
        return value
    raise TypeError(f"is {value!r}, and the table has text")


def _bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise TypeError(f"is {value!r}, and the table has true or false")


def _time(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} cannot be read as ISO 8601 with a zone, as in 2013-09-01T10:00:00Z") from None
    if not isinstance(value, datetime):
        raise TypeError(f"is {value!r}, and the table has timestamps")
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone; say which, as in 2013-09-01T10:00:00Z")
    return to_us(value)


def to_us(value: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exactly (a float of seconds would round)."""
    delta = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * US_PER_S + delta.microseconds


_CONVERT: Mapping[pl.DataType, Any] = {
    pl.Float64(): _float,
    pl.Int64(): _int,
    pl.String(): _str,
    pl.Boolean(): _bool,
    pl.Datetime("us", "UTC"): _time,
}


def to_frame(rows: Sequence[Row], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows in normal form as a table in normal form."""
    physical = {name: pl.Int64() if isinstance(dtype, pl.Datetime) else dtype for name, dtype in schema.items()}
    frame = pl.DataFrame(rows, schema={**physical, ID: pl.Int64()}, strict=True)
    return frame.cast({name: dtype for name, dtype in schema.items() if isinstance(dtype, pl.Datetime)})  # type: ignore[arg-type]
