"""Batches of events at the boundary: types, keys, times. A bad batch is refused whole, with the columns and rows that
are bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mlplat.errors import BatchRefused, InvalidInput, Problem
from mlplat.features.definitions import Source
from mlplat.features.push import FIRST_US, INFINITE, ISO_8601, LAST_US, NO_COLUMN, OUTSIDE, UNREADABLE, hash_id
from mlplat.features.tables import ID

TIME = pl.Datetime("us", "UTC")
COLUMN_TYPES: tuple[pl.DataType, ...] = (pl.String(), pl.Int64(), pl.Float64(), pl.Boolean(), TIME)
KEY_TYPES: tuple[pl.DataType, ...] = (pl.String(), pl.Int64(), pl.Boolean())
SHOWN = 5
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)


def to_frame(data: Any) -> pl.DataFrame:
    """A polars, pandas or Arrow table, rows as dicts, or the path of a Parquet or CSV file or of a folder of Parquet
    files."""
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, str | Path):
        return _read(Path(data))
    if isinstance(data, Sequence):
        return _from_rows(data)
    try:
        return _from_pandas(data) if type(data).__module__.split(".")[0] == "pandas" else pl.DataFrame(data)
    except (TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"{type(data).__name__} is not a table that can be read: {error}") from None


def _read(path: Path) -> pl.DataFrame:
    if not path.exists():
        raise InvalidInput(f"there is no file or folder {str(path)!r}")
    try:
        if path.suffix == ".csv":
            return pl.read_csv(path, infer_schema_length=None, try_parse_dates=True)
        return pl.read_parquet(path / "**/*.parquet" if path.is_dir() else path)
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"{str(path)!r} cannot be read: {error}") from None


def _from_pandas(data: Any) -> pl.DataFrame:
    """Times with a zone go over as UTC: pandas warns when another library takes them as they are."""
    zoned = [name for name, dtype in data.dtypes.items() if getattr(dtype, "tz", None) is not None]
    plain = data.assign(**{name: data[name].dt.tz_convert(None) for name in zoned})
    return pl.DataFrame(plain).with_columns(pl.col(name).dt.replace_time_zone("UTC") for name in zoned)


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    plain: list[dict[str, Any]] = []
    kinds: dict[str, set[str]] = {}
    for at, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidInput(f"the rows do not make a table: row {at} is {type(row).__name__}, and a row is a dict")
        plain.append({name: _plain(value) for name, value in row.items()})
        for name, value in plain[-1].items():
            if value is not None:
                kinds.setdefault(name, set()).add(_kind(value))
    for name, found in kinds.items():
        if len(found) > 1 and found != {"int", "float"}:
            raise InvalidInput(f"the rows do not make a table: column {name!r} has {' and '.join(sorted(found))}")
    try:
        return pl.DataFrame(plain, infer_schema_length=None, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"the rows do not make a table: {error}") from None


def _plain(value: Any) -> Any:
    """A scalar of numpy or pandas as Python's, and a time with a zone in UTC: one column may have several zones."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, datetime) and value != value:
        return None
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value


def _kind(value: Any) -> str:
    if isinstance(value, datetime):
        return "times without a zone" if value.tzinfo is None else "times with a zone"
    return next((kind.__name__ for kind in (bool, int, float, str) if isinstance(value, kind)), type(value).__name__)


def clean(source: Source, frame: pl.DataFrame, schema: Mapping[str, pl.DataType] | None) -> pl.DataFrame:
    """The batch in normal form: times in microseconds UTC, integers int64, floats float64 with NaN as null, `_id`
    added.

    `schema` is that of the source's table, None before its first batch. Raises `BatchRefused`.
    """
    problems = _missing(source, frame)
    if problems:
        raise BatchRefused(f"source {source.name!r}", problems)
    reserved = [name for name in frame.columns if name.startswith("_")]
    problems += [Problem(field=name, message="names that begin with _ are reserved") for name in reserved]
    problems += _nulls(source.time, frame)
    frame, time_problems = _with_time(source, frame)
    frame = normal(frame)
    required = dict.fromkeys([*source.key, *([source.id] if source.id else [])])
    problems += time_problems + [p for name in required if name != source.time for p in _nulls(name, frame)]
    problems += _types(frame, schema, told={problem.field for problem in problems})
    problems += _keys(source, frame) + _values(frame)
    if problems:
        raise BatchRefused(f"source {source.name!r}", problems)
    if schema is not None:
        frame = frame.select(schema.keys()).cast(pl.Schema(schema))
    return frame.with_columns(_ids(source, frame))


def _missing(source: Source, frame: pl.DataFrame) -> list[Problem]:
    needed = [*source.key, source.time, *([source.id] if source.id else [])]
    kinds = {source.time: "the event time", source.id: "the event id"}
    return [
        Problem(
            field=name,
            message=f"{kinds.get(name, 'a key')} of the source, is missing; the batch has {', '.join(frame.columns)}",
        )
        for name in dict.fromkeys(needed)
        if name not in frame.columns
    ]


def _with_time(source: Source, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[Problem]]:
    name = source.time
    dtype = frame.schema[name]
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return frame, [
                Problem(field=name, message="has no time zone; say which, as in .dt.replace_time_zone('UTC')")
            ]
        return frame.with_columns(pl.col(name).dt.convert_time_zone("UTC").dt.cast_time_unit("us")), []
    if dtype == pl.String:
        return _parsed(frame, name)
    if dtype == pl.Null:
        return frame, []
    return frame, [
        Problem(
            field=name, message=f"is {dtype}, and an event time is a timestamp with a zone, or ISO 8601 text with one"
        )
    ]


def _parsed(frame: pl.DataFrame, name: str) -> tuple[pl.DataFrame, list[Problem]]:
    """ISO 8601 text with an offset or Z."""
    text = pl.col(name)
    full = text.str.replace(" ", "T", literal=True).str.replace(r"T(\d\d:\d\d)([Z+-])", "T${1}:00${2}")
    parsed = frame.select(text.alias("text"), time=pl.when(text.str.contains(f"^{ISO_8601}$")).then(full)).with_columns(
        time=pl.col("time").str.to_datetime(format="%+", time_unit="us", time_zone="UTC", strict=False)
    )
    bad = parsed.select((pl.col("time").is_null() & pl.col("text").is_not_null()).alias("bad"))["bad"]
    problems = _rows(name, UNREADABLE, bad)
    return frame.with_columns(parsed["time"].alias(name)), problems


def normal(frame: pl.DataFrame) -> pl.DataFrame:
    """Integers int64, floats float64 with NaN as null, categories text, times microseconds UTC; the rest as it is."""
    casts: list[pl.Expr] = []
    for name, dtype in frame.schema.items():
        if dtype in _INTEGERS:
            casts.append(pl.col(name).cast(pl.Int64))
        elif dtype in (pl.Float32, pl.Float64):
            casts.append(pl.col(name).cast(pl.Float64).fill_nan(None))
        elif isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            casts.append(pl.col(name).dt.convert_time_zone("UTC").dt.cast_time_unit("us"))
        elif isinstance(dtype, pl.Categorical | pl.Enum):
            casts.append(pl.col(name).cast(pl.String))
    return frame.with_columns(casts)


def _nulls(name: str, frame: pl.DataFrame) -> list[Problem]:
    return _rows(name, "is null", frame[name].is_null())


def _keys(source: Source, frame: pl.DataFrame) -> list[Problem]:
    return [
        Problem(field=name, message=f"is {frame.schema[name]}, and a key is text, an integer, or true or false")
        for name in source.key
        if frame.schema[name] not in (*KEY_TYPES, pl.Null)
    ]


def _values(frame: pl.DataFrame) -> list[Problem]:
    """Values that a column of the right type cannot hold on every path."""
    problems: list[Problem] = []
    for name, dtype in frame.schema.items():
        if dtype == pl.Float64:
            problems += _rows(name, INFINITE, frame[name].is_infinite())
        elif dtype == TIME:
            problems += _rows(name, OUTSIDE, ~frame[name].to_physical().is_between(FIRST_US, LAST_US))
    return problems


def _types(frame: pl.DataFrame, schema: Mapping[str, pl.DataType] | None, told: set[str]) -> list[Problem]:
    """Columns of the wrong type, too many, or missing; not again those whose problem is told."""
    held = schema or {}
    problems = [Problem(field=n, message=NO_COLUMN) for n in frame.columns if schema and n not in {*schema, *told}]
    problems += [
        Problem(field=n, message=f"is missing; the table has it as {held[n]}") for n in held if n not in frame.columns
    ]
    for name, dtype in frame.schema.items():
        if name in told or dtype == held.get(name) or (schema and (name not in held or dtype == pl.Null)):
            continue
        if not schema and dtype == pl.Null:
            problems.append(Problem(field=name, message="has only nulls, so it has no type yet: cast it to one"))
        elif not schema and dtype not in COLUMN_TYPES:
            message = f"is {dtype}, which no table holds: cast it to one of {', '.join(map(str, COLUMN_TYPES))}"
            problems.append(Problem(field=name, message=message))
        elif schema and not _widens(dtype, held[name]):
            problems.append(Problem(field=name, message=f"is {dtype}, and the table has it as {held[name]}"))
    return problems


def _widens(given: pl.DataType, wanted: pl.DataType) -> bool:
    return given == pl.Int64 and wanted == pl.Float64


def _ids(source: Source, frame: pl.DataFrame) -> pl.Series:
    if source.id is not None:
        hashes = [hash_id(value) for value in frame[source.id].to_physical().to_list()]
    else:
        names = sorted(frame.columns)
        micros = frame.select(names).with_columns(pl.col(pl.Datetime).to_physical())
        hashes = [hash_id(dict(zip(names, row, strict=True))) for row in micros.iter_rows()]
    return pl.Series(ID, hashes, dtype=pl.Int64)


def _rows(name: str, message: str, bad: pl.Series) -> list[Problem]:
    at = bad.fill_null(False).arg_true()  # noqa: FBT003
    return (
        [Problem(field=name, message=message, rows=tuple(at.head(SHOWN).to_list()), count=len(at))] if len(at) else []
    )
