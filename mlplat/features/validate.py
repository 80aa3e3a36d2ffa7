"""Batches of events at the boundary: types, keys, times. A bad batch is refused whole, with the columns and rows that are bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mlplat.errors import BatchRefused, InvalidInput, Problem
from mlplat.features.definitions import Source
from mlplat.features.push import hash_id
from mlplat.features.tables import ID

TIME = pl.Datetime("us", "UTC")
COLUMN_TYPES: tuple[pl.DataType, ...] = (pl.String(), pl.Int64(), pl.Float64(), pl.Boolean(), TIME)
SHOWN = 5
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)


def to_frame(data: Any) -> pl.DataFrame:
    """A polars, pandas or Arrow table, rows as dicts, or the path of a Parquet or CSV file or of a folder of Parquet files."""
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, str | Path):
        return _read(Path(data))
    if isinstance(data, Sequence):
        return _from_rows(data)
    try:
        frame = pl.DataFrame(data)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"{type(data).__name__} is not a table that can be read: {error}") from None
    return frame


def _read(path: Path) -> pl.DataFrame:
    if not path.exists():
        raise InvalidInput(f"there is no file or folder {str(path)!r}")
    try:
        if path.suffix == ".csv":
            return pl.read_csv(path, infer_schema_length=None, try_parse_dates=True)
        return pl.read_parquet(path / "**/*.parquet" if path.is_dir() else path)
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"{str(path)!r} cannot be read: {error}") from None


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    try:
        return pl.DataFrame(list(rows), infer_schema_length=None, strict=True)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"the rows do not make a table: {error}") from None


def clean(source: Source, frame: pl.DataFrame, schema: Mapping[str, pl.DataType] | None) -> pl.DataFrame:
    """The batch in normal form: times in microseconds UTC, integers int64, floats float64 with NaN as null, `_id` added.

    `schema` is that of the source's table, None before its first batch. Raises `BatchRefused`.
    """
    problems = _missing(source, frame)
    if problems:
        raise BatchRefused(f"source {source.name!r}", problems)
    reserved = [name for name in frame.columns if name.startswith("_")]
    problems += [Problem(field=name, message="names that begin with _ are reserved") for name in reserved]
    problems += _nulls(source, frame)
    frame, time_problems = _with_time(source, frame)
    frame = _normal(frame)
    problems += time_problems + _types(frame, schema)
    if problems:
        raise BatchRefused(f"source {source.name!r}", problems)
    if schema is not None:
        frame = frame.select(schema.keys()).cast(dict(schema))
    return frame.with_columns(_ids(source, frame))


def _missing(source: Source, frame: pl.DataFrame) -> list[Problem]:
    needed = [*source.key, source.time, *([source.id] if source.id else [])]
    kinds = {source.time: "the event time", source.id: "the event id"}
    return [
        Problem(field=name, message=f"{kinds.get(name, 'a key')} of the source, is missing; the batch has {', '.join(frame.columns)}")
        for name in dict.fromkeys(needed)
        if name not in frame.columns
    ]


def _with_time(source: Source, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[Problem]]:
    name = source.time
    dtype = frame.schema[name]
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return frame, [Problem(field=name, message="has no time zone; say which, as in .dt.replace_time_zone('UTC')")]
        return frame.with_columns(pl.col(name).dt.convert_time_zone("UTC").dt.cast_time_unit("us")), []
    if dtype == pl.String:
        return _parsed(frame, name)
    if dtype == pl.Null:
        return frame, []
    return frame, [Problem(field=name, message=f"is {dtype}, and an event time is a timestamp with a zone, or ISO 8601 text with one")]


def _parsed(frame: pl.DataFrame, name: str) -> tuple[pl.DataFrame, list[Problem]]:
    """ISO 8601 text with an offset or Z."""
    text = pl.col(name)
    zoned = text.str.contains(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)$")
    parsed = frame.select(
        text.alias("text"),
        time=pl.when(zoned).then(text.str.replace(r"Z$", "+00:00").str.replace(" ", "T", literal=True)),
    ).with_columns(time=pl.col("time").str.to_datetime(format="%+", time_unit="us", time_zone="UTC", strict=False))
    bad = parsed.select((pl.col("time").is_null() & pl.col("text").is_not_null()).alias("bad"))["bad"]
    problems = _rows(name, "cannot be read as ISO 8601 with a zone, as in 2013-09-01T10:00:00Z", bad)
    return frame.with_columns(parsed["time"].alias(name)), problems


def _normal(frame: pl.DataFrame) -> pl.DataFrame:
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


def _nulls(source: Source, frame: pl.DataFrame) -> list[Problem]:
    names = dict.fromkeys([*source.key, source.time, *([source.id] if source.id else [])])
    return [problem for name in names for problem in _rows(name, "is null", frame[name].is_null())]


def _types(frame: pl.DataFrame, schema: Mapping[str, pl.DataType] | None) -> list[Problem]:
    if schema is None:
        return [
            Problem(field=name, message=f"is {dtype}, which no table holds: cast it to one of {', '.join(map(str, COLUMN_TYPES))}")
            for name, dtype in frame.schema.items()
            if dtype not in COLUMN_TYPES
        ]
    problems = [Problem(field=n, message="the table has no such column") for n in frame.columns if n not in schema]
    for name, dtype in schema.items():
        if name not in frame.columns:
            problems.append(Problem(field=name, message=f"is missing; the table has it as {dtype}"))
        elif frame.schema[name] not in (dtype, pl.Null) and not _widens(frame.schema[name], dtype):
            problems.append(Problem(field=name, message=f"is {frame.schema[name]}, and the table has it as {dtype}"))
    return problems


def _widens(given: pl.DataType, wanted: pl.DataType) -> bool:
    return given == pl.Int64 and wanted == pl.Float64


def _ids(source: Source, frame: pl.DataFrame) -> pl.Series:
    if source.id is not None:
        hashes = [hash_id(value) for value in frame[source.id].to_list()]
    else:
        names = sorted(frame.columns)
        micros = frame.select(names).with_columns(pl.col(pl.Datetime).to_physical())
        hashes = [hash_id(dict(zip(names, row, strict=True))) for row in micros.iter_rows()]
    return pl.Series(ID, hashes, dtype=pl.Int64)


def _rows(name: str, message: str, bad: pl.Series) -> list[Problem]:
    at = bad.fill_null(False).arg_true()  # noqa: FBT003
    return [Problem(field=name, message=message, rows=tuple(at.head(SHOWN).to_list()), count=len(at))] if len(at) else []
