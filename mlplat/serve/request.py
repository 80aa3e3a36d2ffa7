"""What a caller sends: `{"rows": [{field: value, ...}, ...], "at": "2013-09-01T10:00:00Z"}`, checked against a
signature. Pure.

`at` (optional) is the "now" of windows and time-to-live; a row may carry its own, unless the model has a field of
this name.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from mlplat.model.signature import DType, Field, Signature
from mlplat.serve.http import FieldError, HttpError

MAX_ROWS = 1_000
MAX_STRING = 256
_MAX_PROBLEMS = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT64 = 1 << 63


class _Bad(Exception):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Valid rows as columns: every entity key and request field has one value per row, None where it is null."""

    rows: int
    columns: Mapping[str, Sequence[Any]]
    at_us: Sequence[int]

    def only(self, rows: Sequence[int]) -> Request:
        """These rows alone."""
        if len(rows) == self.rows:
            return self
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Request(rows=len(rows), columns=columns, at_us=[self.at_us[row] for row in rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Rows as they came, in whatever form, not yet checked. `strict` is False where the JSON held NaN or Infinity."""

    rows: Sequence[Mapping[str, Any]]
    at: Any = None
    strict: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """How one field is read, and whether it may be null or absent. An entity key may be null (nobody knows the entity),
    but not absent: a caller who forgot it would get the features of nobody without a word.
    """

    name: str
    read: Callable[[Any], Any]
    null: bool
    absent: bool


class Parser:
    """Checks requests against one signature. What can be known before the first request is prepared here."""

    def __init__(self, signature: Signature) -> None:
        fields = {field.name: field for field in (*signature.entities, *signature.request)}
        keys = {field.name for field in signature.entities}
        self._fields = tuple(
            _Rule(
                name=f.name,
                read=_READERS[f.dtype],
                null=not (f.required or _required_twice(signature, f)),
                absent=not f.required and f.name not in keys,
            )
            for f in fields.values()
        )
        self._row_at = "at" not in fields
        self.dtypes: Mapping[str, DType] = {name: field.dtype for name, field in fields.items()} | (
            {"at": "timestamp"} if self._row_at else {}
        )
        self._known = frozenset(self.dtypes)

    def parse(self, body: bytes | Asked, *, now_us: int) -> Request:
        """`HttpError` 400 for what is not a request, 422 for fields that are wrong: all of them, by name and row."""
        asked = read(body) if isinstance(body, bytes) else body
        rows, at = asked.rows, asked.at
        problems: list[FieldError] = []
        self._refuse_unknown(rows, problems)
        columns = {rule.name: _column(rule, rows, problems) for rule in self._fields}
        default = now_us if at is None else _one("at", at, problems)
        at_us = self._times(rows, default, problems)
        if problems:
            raise refusal(problems)
        if not asked.strict:
            raise malformed("a value is not JSON")
        return Request(rows=len(rows), columns=columns, at_us=at_us)

    def _times(self, rows: Sequence[Mapping[str, Any]], default: int, problems: list[FieldError]) -> list[int]:
        if not self._row_at:
            return [default] * len(rows)
        return [default if row.get("at") is None else _one("at", row["at"], problems, i) for i, row in enumerate(rows)]

    def _refuse_unknown(self, rows: Sequence[Mapping[str, Any]], problems: list[FieldError]) -> None:
        for i, row in enumerate(rows):
            if row.keys() <= self._known:
                continue
            for name in sorted(row.keys() - self._known):
                problems.append(FieldError(field=name[:MAX_STRING], message=self.near(name), row=i))
                if len(problems) >= _MAX_PROBLEMS:  # finding near names is slow, and a caller needs no more of them
                    return

    def near(self, name: str) -> str:
        """What to say of a field that the model does not have."""
        near = difflib.get_close_matches(name[:MAX_STRING], self._known, n=1, cutoff=0.5)
        return (
            f"unknown field; did you mean {near[0]!r}?"
            if near
            else f"unknown field; known: {', '.join(sorted(self._known))}"
        )


def _required_twice(signature: Signature, field: Field) -> bool:
    """A field that is an entity key and a request field is required if either says so."""
    return any(f.required for f in signature.request if f.name == field.name)


def load(body: bytes) -> tuple[Any, bool]:
    """The JSON value, and whether it is strict JSON: NaN and Infinity are read too, so that the answer can name
    their field.
    """
    try:
        return orjson.loads(body), True
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(body), False
        except (ValueError, RecursionError):
            raise malformed(str(error)) from None


def read(body: bytes) -> Asked:
    value, strict = load(body)
    if not isinstance(value, dict):
        raise shape('the body is not an object: send {"rows": [{...}]}')
    unknown = value.keys() - {"rows", "at"}
    if unknown:
        raise shape(
            f"unknown key {min(unknown)[:MAX_STRING]!r}: the keys are 'rows' and 'at'", min(unknown)[:MAX_STRING]
        )
    rows = value.get("rows")
    if not isinstance(rows, list) or not rows:
        raise shape("'rows' is missing or is not a list of one row or more", "rows")
    if len(rows) > MAX_ROWS:
        raise shape(f"{len(rows)} rows are more than {MAX_ROWS}: send several requests", "rows")
    if not all(isinstance(row, dict) for row in rows):
        raise shape("every row is an object: {field: value, ...}", "rows")
    return Asked(rows=rows, at=value.get("at"), strict=strict)


def _column(rule: _Rule, rows: Sequence[Mapping[str, Any]], problems: list[FieldError]) -> list[Any]:
    name, read = rule.name, rule.read
    try:
        return [read(row[name]) for row in rows]
    except (KeyError, _Bad):  # a value is absent, null, or wrong: which, and is it allowed to be?
        return _looked_at(rule, rows, problems)


def _looked_at(rule: _Rule, rows: Sequence[Mapping[str, Any]], problems: list[FieldError]) -> list[Any]:
    values: list[Any] = []
    for i, row in enumerate(rows):
        value = row.get(rule.name)
        if value is None:
            present = rule.name in row
            if not (rule.null if present else rule.absent):
                problems.append(FieldError(field=rule.name, message="is null" if present else "is missing", row=i))
            values.append(None)
            continue
        try:
            values.append(rule.read(value))
        except _Bad as bad:
            problems.append(FieldError(field=rule.name, message=str(bad), row=i))
    return values


def _one(name: str, value: Any, problems: list[FieldError], row: int | None = None) -> int:
    try:
        return _timestamp(value)
    except _Bad as bad:
        problems.append(FieldError(field=name, message=str(bad), row=row))
        return 0


def _float(value: Any) -> float:
    if type(value) is not float:
        if type(value) is not int:
            raise _Bad(f"is {_kind(value)}, not a number")
        try:
            value = float(value)
        except OverflowError:
            raise _Bad("is too large for a number") from None
    if not math.isfinite(value):
        raise _Bad("is NaN or infinite: send null for a missing value")
    return float(value)


def _int(value: Any) -> int:
    if type(value) is float and not math.isfinite(value):
        raise _Bad("is NaN or infinite: send null for a missing value")
    if type(value) is not int:
        raise _Bad(f"is {_kind(value)}, not an integer")
    if not -_INT64 <= value < _INT64:
        raise _Bad("does not fit into 64 bits")
    return value


def _string(value: Any) -> str:
    if type(value) is not str:
        raise _Bad(f"is {_kind(value)}, not a string")
    if len(value) > MAX_STRING:
        raise _Bad(f"is longer than {MAX_STRING} characters")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _Bad(f"is {_kind(value)}, not true or false")
    return value


def _timestamp(value: Any) -> int:
    if type(value) is not str:
        raise _Bad(f"is {_kind(value)}, not an ISO 8601 string such as 2013-09-01T10:00:00Z")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _Bad("is not ISO 8601 such as 2013-09-01T10:00:00Z") from None
    if moment.tzinfo is None:
        raise _Bad("has no time zone: end it with Z or an offset such as +02:00")
    return (moment - _EPOCH) // _MICROSECOND


_READERS: Mapping[DType, Callable[[Any], Any]] = {
    "float64": _float,
    "int64": _int,
    "string": _string,
    "bool": _bool,
    "timestamp": _timestamp,
}
_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number with a fraction",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def _kind(value: Any) -> str:
    return _KINDS[type(value)]


def malformed(reason: str) -> HttpError:
    return HttpError(400, "malformed_json", f"the body is not JSON: {reason}")


def shape(message: str, field: str | None = None) -> HttpError:
    """Well-formed JSON that is no request."""
    fields = () if field is None else (FieldError(field=field, message=message),)
    return HttpError(400, "bad_request", message, fields=fields)


def refusal(problems: Sequence[FieldError]) -> HttpError:
    shown = problems[:_MAX_PROBLEMS]
    first = shown[0]
    where = "" if first.row is None else f" of row {first.row}"
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    return HttpError(422, "invalid_fields", f"field {first.field!r}{where} {first.message}{more}", fields=shown)
