"""Batches of events at the boundary: types, keys, times. A bad batch is refused whole, with the columns and rows that
are bad; or, when asked, its bad rows are set aside with what is wrong with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mlplat.errors import BatchRefused, Problem
from mlplat.features.definitions import Source
from mlplat.features.ids import row_ids, value_ids
from mlplat.features.push import INFINITE, NO_COLUMN
from mlplat.features.read_data import to_frame
from mlplat.features.tables import ID
from mlplat.features.times import FIRST_US, LAST_US, NO_ZONE, OUTSIDE, TIME, UNREADABLE, localised, no_moment, parsed

__all__ = ["KEY_TYPES", "Checked", "Finding", "check", "clean", "normal", "to_frame"]

COLUMN_TYPES: tuple[pl.DataType, ...] = (pl.String(), pl.Int64(), pl.Float64(), pl.Boolean(), TIME)
KEY_TYPES: tuple[pl.DataType, ...] = (pl.String(), pl.Int64(), pl.Boolean())
SHOWN = 5
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: with the rows where `bad` is true, or with the whole batch."""

    field: str
    message: str
    bad: pl.Series | None = None

    def problem(self, first_row: int = 0) -> Problem:
        if self.bad is None:
            return Problem(field=self.field, message=self.message)
        at = self.bad.arg_true()
        rows = tuple(first_row + row for row in at.head(SHOWN).to_list())
        return Problem(field=self.field, message=self.message, rows=rows, count=len(at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A batch in normal form as far as it goes, and what is wrong with it."""

    frame: pl.DataFrame
    findings: Sequence[Finding]

    def bad(self) -> pl.Series:
        """Per row, whether something is wrong with it."""
        bad = pl.Series(np.zeros(self.frame.height, dtype=bool))
        for finding in self.findings:
            bad = bad if finding.bad is None else bad | finding.bad
        return bad

    def reasons(self, row: int) -> list[str]:
        return [f"{f.field}: {f.message}" for f in self.findings if f.bad is not None and f.bad[row]]


def clean(source: Source, frame: pl.DataFrame, schema: Mapping[str, pl.DataType] | None) -> pl.DataFrame:
    """The batch in normal form: times in microseconds UTC, integers int64, floats float64 with NaN as null, `_id`
    added.

    `schema` is that of the source's table, None before its first batch. Raises `BatchRefused`.
    """
    found = check(source, frame, schema)
    if found.findings:
        raise BatchRefused(f"source {source.name!r}", [finding.problem() for finding in found.findings])
    return with_ids(source, found.frame)


def with_ids(source: Source, frame: pl.DataFrame) -> pl.DataFrame:
    """`_id` of rows in normal form."""
    if source.id is not None:
        ids = value_ids(frame[source.id])
    else:
        ids = row_ids(frame, frame.columns if source.created is None else source.key)
    return frame.with_columns(pl.Series(ID, ids, dtype=pl.Int64))


def check(
    source: Source,
    frame: pl.DataFrame,
    schema: Mapping[str, pl.DataType] | None,
    *,
    add_columns: bool = False,
    read_text: bool = False,
) -> Checked:
    """The batch in the types and the order of the table, and all that is wrong with it.

    With `add_columns` it may have columns that the table has not; they come last. With `read_text`, text in a column of
    numbers or truths is read as such where it can be, and only the rows where it cannot are wrong.
    """
    if missing := _missing(source, frame):
        return Checked(frame=frame, findings=missing)
    reserved = [name for name in frame.columns if name.startswith("_")]
    findings = [Finding(field=name, message="names that begin with _ are reserved") for name in reserved]
    given_null = {name: frame[name].is_null() for name in (source.time, source.created) if name is not None}
    frame, of_times = _with_times(source, frame, schema or {})
    frame = normal(frame)
    if read_text:
        frame, of_text = _with_text_read(frame, schema or {})
        of_times += of_text
    findings += of_times
    findings += [
        f for name in source.required for f in _rows(name, "is null", given_null.get(name, frame[name].is_null()))
    ]
    findings += _types(frame, schema, {finding.field for finding in findings}, add_columns=add_columns)
    findings += _keys(source, frame) + _values(frame)
    if schema is not None and all(finding.bad is not None for finding in findings):
        order = [*schema, *(name for name in frame.columns if name not in schema)]
        frame = frame.select(order).cast(pl.Schema(schema))
    return Checked(frame=frame, findings=findings)


def _missing(source: Source, frame: pl.DataFrame) -> list[Finding]:
    kinds = {source.time: "the event time", source.id: "the event id", source.created: "when a row became known"}
    return [
        Finding(
            field=name,
            message=f"{kinds.get(name, 'a key')} of the source, is missing; the batch has {', '.join(frame.columns)}",
        )
        for name in source.required
        if name not in frame.columns
    ]


def _with_times(
    source: Source, frame: pl.DataFrame, schema: Mapping[str, pl.DataType]
) -> tuple[pl.DataFrame, list[Finding]]:
    """The event time, `created`, and text where the table has times, as microseconds UTC."""
    findings: list[Finding] = []
    own = [name for name in (source.time, source.created) if name is not None]
    texts = [n for n, dtype in frame.schema.items() if dtype == pl.String and schema.get(n) == TIME and n not in own]
    for name in (*own, *texts):
        column, found = _time(name, frame[name], source.zone if name in own else None)
        frame = frame.with_columns(column.alias(name))
        findings += found
    return frame, findings


def _time(name: str, column: pl.Series, zone: str | None) -> tuple[pl.Series, list[Finding]]:
    dtype = column.dtype
    if dtype == pl.String:
        made, readable = parsed(column, zone)
        given = column.is_not_null()
        wrong = _rows(name, UNREADABLE, given & ~readable)
        return made, wrong + (_rows(name, no_moment(zone), given & readable & made.is_null()) if zone else [])
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us"), []
    if isinstance(dtype, pl.Datetime) and zone is not None:
        made = localised(column, zone)
        return made, _rows(name, no_moment(zone), column.is_not_null() & made.is_null())
    if isinstance(dtype, pl.Datetime):
        remedy = "as in .dt.replace_time_zone('UTC'), or declare it, as in F.source(..., zone='Europe/Paris')"
        return column, [Finding(field=name, message=f"{NO_ZONE}, {remedy}")]
    if dtype == pl.Null:
        return column.cast(TIME), []
    message = f"is {dtype}, and an event time is a timestamp with a zone, or ISO 8601 text with one"
    return column, [Finding(field=name, message=message)]


def _with_text_read(frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> tuple[pl.DataFrame, list[Finding]]:
    findings: list[Finding] = []
    for name, dtype in frame.schema.items():
        wanted = schema.get(name)
        if dtype != pl.String or wanted not in (pl.Int64(), pl.Float64(), pl.Boolean()):
            continue
        texts = frame[name].str.strip_chars()
        if wanted == pl.Boolean():
            read = texts.str.to_lowercase().replace_strict({"true": True, "false": False}, default=None)
        else:
            read = texts.cast(wanted, strict=False)
        findings += _rows(name, f"cannot be read as {wanted}", texts.is_not_null() & read.is_null())
        frame = frame.with_columns(read.cast(wanted).alias(name))
    return normal(frame), findings


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


def _keys(source: Source, frame: pl.DataFrame) -> list[Finding]:
    return [
        Finding(field=name, message=f"is {frame.schema[name]}, and a key is text, an integer, or true or false")
        for name in source.key
        if frame.schema[name] not in (*KEY_TYPES, pl.Null)
    ]


def _values(frame: pl.DataFrame) -> list[Finding]:
    """Values that a column of the right type cannot hold on every path."""
    findings: list[Finding] = []
    for name, dtype in frame.schema.items():
        if dtype == pl.Float64:
            findings += _rows(name, INFINITE, frame[name].is_infinite())
        elif dtype == TIME:
            findings += _rows(name, OUTSIDE, ~frame[name].to_physical().is_between(FIRST_US, LAST_US))
    return findings


def _types(
    frame: pl.DataFrame, schema: Mapping[str, pl.DataType] | None, told: set[str], *, add_columns: bool
) -> list[Finding]:
    """Columns of the wrong type, too many, or missing; not again those whose problem is told."""
    if schema is None:
        return [f for name, dtype in frame.schema.items() if name not in told for f in _new(name, dtype)]
    findings = [
        Finding(field=n, message=f"is missing; the table has it as {dtype}")
        for n, dtype in schema.items()
        if n not in frame.columns
    ]
    for name, dtype in frame.schema.items():
        if name in told:
            continue
        if name not in schema:
            refused = Finding(field=name, message=f'{NO_COLUMN}; new_columns="add" adds it, null for older rows')
            findings += _new(name, dtype) if add_columns else [refused]
        elif dtype not in (schema[name], pl.Null) and not _widens(dtype, schema[name]):
            findings.append(Finding(field=name, message=f"is {dtype}, and the table has it as {schema[name]}"))
    return findings


def _new(name: str, dtype: pl.DataType) -> list[Finding]:
    """What is wrong with a column that would set a type of the table."""
    if dtype == pl.Null:
        return [Finding(field=name, message="has only nulls, so it has no type yet: cast it to one")]
    if dtype not in COLUMN_TYPES:
        message = f"is {dtype}, which no table holds: cast it to one of {', '.join(map(str, COLUMN_TYPES))}"
        return [Finding(field=name, message=message)]
    return []


def _widens(given: pl.DataType, wanted: pl.DataType) -> bool:
    return given == pl.Int64 and wanted == pl.Float64


def _rows(name: str, message: str, bad: pl.Series) -> list[Finding]:
    bad = bad.fill_null(False)  # noqa: FBT003
    return [Finding(field=name, message=message, bad=bad)] if bad.any() else []
