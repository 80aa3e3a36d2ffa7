"""The rows of a table as questions to a model: what `request.Parser` asks of JSON, asked of columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.times import UNREADABLE, parsed
from mlplat.features.transform import POLARS_TYPES
from mlplat.features.validate import normal
from mlplat.model.signature import DType, Signature

AT = "_asked_at"
_WANTED: Mapping[DType, str] = {
    "float64": "a number",
    "int64": "an integer",
    "string": "text",
    "bool": "true or false",
    "timestamp": "a time with a zone, or ISO 8601 text with one",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    column: str
    message: str
    bad: pl.Series


def asked(frame: pl.DataFrame, signature: Signature, *, time: str | None, now_us: int, first: int) -> pl.DataFrame:
    """Entity keys and request fields in the model's types, null where the table has no such column and the model needs none;
    and `AT`: the column `time`, or `now_us` for every row. More columns do no harm.

    `InvalidInput` names the column, and the row, `first` being the place of the frame's first one in the table.
    """
    fields = {field.name: field for field in (*signature.entities, *signature.request)}
    needed = {field.name for field in signature.entities} | {f.name for f in signature.request if f.required}
    never_null = {f.name for f in (*signature.entities, *signature.request) if f.required}
    findings: list[_Finding] = []
    columns: list[pl.Series] = []
    for name, field in fields.items():
        if name not in frame.columns:
            if name in needed:
                raise _missing(name, field.dtype, frame)
            columns.append(pl.Series(name, [None], dtype=POLARS_TYPES[field.dtype]).new_from_index(0, frame.height))
            continue
        columns.append(_read(name, frame[name], field.dtype, findings, null=name not in never_null))
    columns.append(_moments(frame, time, now_us, findings))
    if findings:
        raise _refusal(findings, first)
    return pl.DataFrame(columns)


def _moments(frame: pl.DataFrame, time: str | None, now_us: int, findings: list[_Finding]) -> pl.Series:
    if time is None:
        return pl.Series(AT, [now_us], dtype=pl.Int64).new_from_index(0, frame.height).cast(POLARS_TYPES["timestamp"])
    if time not in frame.columns:
        raise _missing(time, "timestamp", frame)
    return _read(time, frame[time], "timestamp", findings, null=False).alias(AT)


def _read(name: str, given: pl.Series, dtype: DType, findings: list[_Finding], *, null: bool) -> pl.Series:
    """The column in a type of the model's; NaN is null in a table."""
    column = normal(given.to_frame()).to_series()
    wanted = POLARS_TYPES[dtype]
    made, message = _typed(column, dtype)
    wrong = column.is_not_null() & made.is_null()
    if dtype == "float64" and not wrong.any():
        wrong, message = made.is_infinite().fill_null(value=False), "is infinite: give null for a missing value"
    for bad, said in ((wrong, message), (column.is_null(), "" if null else "is null")):
        if said and bad.any():
            findings.append(_Finding(column=name, message=said, bad=bad))
    return made.cast(wanted).alias(name)


def _typed(column: pl.Series, dtype: DType) -> tuple[pl.Series, str]:
    """Null where a value is not of the type, and what it is then."""
    given, wanted = column.dtype, POLARS_TYPES[dtype]
    other = f"is {given}, not {_WANTED[dtype]}"
    if given in (wanted, pl.Null):
        return column.cast(wanted), other
    if dtype == "timestamp" and given == pl.String:
        return parsed(column, None)[0], UNREADABLE
    if dtype == "float64" and given.is_numeric():
        return column.cast(wanted, strict=False), "is too large for a number"
    if dtype == "int64" and given == pl.Float64:  # how pandas holds whole numbers beside nulls
        return column.set(column != column.floor(), None).cast(wanted, strict=False), "is not an integer of 64 bits"
    if dtype == "int64" and given.is_integer():
        return column.cast(wanted, strict=False), "does not fit into 64 bits"
    return pl.Series(column.name, [None], dtype=wanted).new_from_index(0, len(column)), other


def _missing(name: str, dtype: DType, frame: pl.DataFrame) -> InvalidInput:
    return InvalidInput(
        f"field {name!r} is missing: the table has no such column ({_WANTED[dtype]}), but {', '.join(frame.columns)}"
    )


def _refusal(findings: list[_Finding], first: int) -> InvalidInput:
    """In the words of an endpoint's answer: the first row that is wrong, and how many findings more there are."""
    at, one = min(((finding.bad.arg_max() or 0, finding) for finding in findings), key=lambda pair: pair[0])
    more = sum(int(finding.bad.sum()) for finding in findings) - 1
    told = f" (at least {more} more)" if more else ""
    return InvalidInput(f"field {one.column!r} of row {first + at} {one.message}{told}")
