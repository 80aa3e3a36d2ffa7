"""One event at a time: the checks of a batch without a table, fast enough for a request path.

Gives the same normal form as `validate.clean`; a property test compares the two.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import polars as pl

from mlplat.clock import US_PER_S
from mlplat.errors import BatchRefused, Problem
from mlplat.features.definitions import Source
from mlplat.features.tables import ID

NO_COLUMN = "the table has no such column"
INFINITE = "is infinite; a table has finite numbers and nulls"
ISO_8601 = r"\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?(Z|[+-]([01]\d|2[0-3]):?[0-5]\d)"
UNREADABLE = "cannot be read as ISO 8601 with a zone, as in 2013-09-01T10:00:00Z"
OUTSIDE = "is outside the years 1 to 9999 in UTC"
FIRST_US = -62_135_596_800_000_000
LAST_US = 253_402_300_799_999_999

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
    problems += [Problem(field=n, message=NO_COLUMN, rows=(at,), count=1) for n in row.keys() - schema.keys()]
    done: Row = {}
    for name, dtype in schema.items():
        value = row.get(name)
        try:
            done[name] = None if value is None else _converted(dtype, value)
        except (TypeError, ValueError, OverflowError) as error:
            problems.append(Problem(field=name, message=str(error), rows=(at,), count=1))
            continue
        if done[name] is None and name in required:
            message = "is null" if name in row else "is missing"
            problems.append(Problem(field=name, message=message, rows=(at,), count=1))
    return done


def _converted(dtype: pl.DataType, value: Any) -> Any:
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


def _time(value: Any) -> int | None:
    if isinstance(value, str):
        if re.fullmatch(ISO_8601, value) is None:
            raise ValueError(f"{value!r} {UNREADABLE}")
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} {UNREADABLE}") from None
    if not isinstance(value, datetime):
        raise TypeError(f"is {value!r}, and the table has timestamps")
    if value != value:
        return None
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone; say which, as in 2013-09-01T10:00:00Z")
    us = to_us(value)
    if not FIRST_US <= us <= LAST_US:
        raise ValueError(OUTSIDE)
    return us


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
    return frame.cast({name: dtype for name, dtype in schema.items() if isinstance(dtype, pl.Datetime)})
