"""Running a view's transform on rows, with its declared output enforced. The same function serves the pool and the
push path."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from mlplat.errors import InvalidInput, Refused, UserCodeError
from mlplat.features.codec import RowCodec
from mlplat.features.definitions import Derived, RowFeature, View
from mlplat.features.tables import BATCH, ID
from mlplat.model.signature import DType
from mlplat.source_code import load

Transform = Callable[[pl.DataFrame], pl.DataFrame]

POLARS_TYPES: dict[DType, pl.DataType] = {
    "float64": pl.Float64(),
    "int64": pl.Int64(),
    "string": pl.String(),
    "bool": pl.Boolean(),
    "timestamp": pl.Datetime("us", "UTC"),
}
# Code that is no user's: this file, the standard library, and what is installed.
_NOT_THEIRS = (__file__, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<frozen")


def stored(view: View | Derived) -> tuple[RowFeature, ...]:
    """The features that are stored with a row; an age is computed when it is read."""
    return tuple(feature for feature in view.rows if feature.column is not None)


def row_codec(view: View | Derived) -> RowCodec:
    return RowCodec([feature.dtype for feature in stored(view)])


def instance(view: View | Derived) -> Transform | None:
    """The user's object, made of the class that this process has, or of the text that the view carries; None for a view
    without a transform."""
    if view.code is None:
        return None
    if view.transform is None and view.module is None:
        raise Refused(
            f"view {view.name!r} computes its features in Python that stands on names from outside its module, and this "
            f"process has not its code: import it and call platform.features.apply({view.name}) here first"
        )
    remedy = f", or call platform.features.apply({view.name}) in this process first"
    body = view.transform or load("view", view.name, str(view.module), remedy=remedy)
    try:
        made: Transform = body()
    except Exception as error:
        raise _user_error(view, "__init__", error) from error
    return made


def make_rows(view: View, transform: Transform | None, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of the source as rows of the view: its keys, the event time, `created` if the source has it, `_id` and the
    stored features, in their types."""
    made = _columns_of(view, rows) if transform is None else _made(view, transform, rows)
    return pl.DataFrame([*(rows.get_column(name) for name in (*view.identity_columns(), ID)), *made])


def _without(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    """Without these columns. Made of its columns: a plan for polars would take longer than a pushed event's transform."""
    return pl.DataFrame([column for column in frame.get_columns() if column.name not in names])


def _columns_of(view: View, rows: pl.DataFrame) -> list[pl.Series]:
    absent = [f.column for f in stored(view) if f.column not in rows.columns]
    if absent:
        there = [name for name in rows.columns if name != BATCH]
        raise InvalidInput(
            f"view {view.name!r} reads column {absent[0]!r}, and source {view.source.name!r} has {', '.join(there)}"
        )
    return _cast(view, [rows.get_column(str(f.column)).alias(f.name) for f in stored(view)])


def _made(view: View | Derived, transform: Transform, rows: pl.DataFrame) -> list[pl.Series]:
    given = _without(rows, ID, BATCH)
    try:
        made = transform(given)
    except Exception as error:
        where = f" It was given {given.height} rows, the first being {given.head(1).to_dicts()}."
        raise _user_error(view, "__call__", error, where) from error
    return _enforced(view, made, given)


def derive(view: Derived, transform: Transform, given: pl.DataFrame) -> pl.DataFrame:
    """The features of a derived view for each row: `given` has the parents' keys, their features as `view.feature`, the
    request fields and `at`. Only the view's own columns come back, in their declared types."""
    return pl.DataFrame(_made(view, transform, given))


def _enforced(view: View | Derived, made: Any, rows: pl.DataFrame) -> list[pl.Series]:
    if not isinstance(made, pl.DataFrame):
        raise UserCodeError(f"view {view.name!r} returned {type(made).__name__}; return a polars DataFrame")
    if made.height != rows.height:
        raise UserCodeError(
            f"view {view.name!r} was given {rows.height} rows and returned {made.height}; return one for each, in order"
        )
    absent = [f.name for f in stored(view) if f.name not in made.columns]
    if absent:
        raise UserCodeError(
            f"view {view.name!r} did not return {', '.join(map(repr, absent))}; it returned {', '.join(made.columns)}"
        )
    result = _cast(view, [made.get_column(f.name) for f in stored(view)])
    for feature, values in zip(stored(view), result, strict=True):
        _check_bounds(view, feature, values, rows)
    return result


def fits(given: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether every value of a type has one of another: nothing is rounded or parsed on the way."""
    if wanted == pl.Float64:
        return given.is_numeric() or given == pl.Null
    if wanted == pl.Int64:
        return given.is_integer() or given == pl.Null
    if wanted == pl.String:
        return given in (pl.String, pl.Categorical, pl.Enum, pl.Null)
    return given in (wanted, pl.Null)


def _cast(view: View | Derived, columns: list[pl.Series]) -> list[pl.Series]:
    wanted = [POLARS_TYPES[f.dtype] for f in stored(view)]
    for column, dtype in zip(columns, wanted, strict=True):
        if not fits(column.dtype, dtype):
            raise UserCodeError(
                f"view {view.name!r}, feature {column.name!r}: it is declared {dtype} and came as {column.dtype}; cast it"
            )
    try:
        return [_typed(column, dtype) for column, dtype in zip(columns, wanted, strict=True)]
    except pl.exceptions.PolarsError as error:
        raise UserCodeError(f"view {view.name!r}: a feature is not of its declared type: {error}") from None


def _typed(column: pl.Series, wanted: pl.DataType) -> pl.Series:
    """In its declared type, NaN as null."""
    typed = column if column.dtype == wanted else column.cast(wanted)
    if wanted != pl.Float64 or (typed.null_count() == 0 and not np.isnan(typed.to_numpy()).any()):
        return typed
    return typed.fill_nan(None)


def _check_bounds(view: View | Derived, feature: RowFeature, values: pl.Series, rows: pl.DataFrame) -> None:
    if not feature.nullable and (at := values.is_null().arg_max()) is not None and values[at] is None:
        raise UserCodeError(
            f"view {view.name!r}, feature {feature.name!r}: it is null, and declared nullable=False, "
            f"for the row {rows.row(at, named=True)}"
        )
    for bound, sign, bad in (
        (feature.ge, ">=", values < feature.ge if feature.ge is not None else None),
        (feature.le, "<=", values > feature.le if feature.le is not None else None),
    ):
        if bad is not None and bad.any() and (at := bad.fill_null(value=False).arg_max()) is not None:
            raise UserCodeError(
                f"view {view.name!r}, feature {feature.name!r}: {values[at]} is not {sign} {bound}, "
                f"for the row {rows.row(at, named=True)}"
            )


def _user_error(view: View | Derived, method: str, error: Exception, given: str = "") -> UserCodeError:
    frames = traceback.extract_tb(error.__traceback__)
    mine = next((f for f in reversed(frames) if not f.filename.startswith(_NOT_THEIRS)), frames[-1])
    where = f"{mine.filename}:{mine.lineno}"
    return UserCodeError(f"view {view.name!r}: {method} raised {type(error).__name__}: {error} at {where}.{given}")
