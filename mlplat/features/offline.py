"""Point-in-time joins: for each row of a frame, the features that were known at its time. Rows in, the same rows
out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from mlplat.clock import US_PER_S
from mlplat.errors import InvalidInput
from mlplat.features import windows
from mlplat.features.asof import History, history
from mlplat.features.definitions import View
from mlplat.features.transform import POLARS_TYPES, stored
from mlplat.features.validate import normal

Ints = npt.NDArray[np.int64]
RowsOf = Callable[[View], pl.DataFrame]
"""The rows of a view: its keys, the event time, `_id`, and the columns it needs."""


def join(frame: pl.DataFrame, views: Sequence[View], *, time: str, rows_of: RowsOf) -> pl.DataFrame:
    """`frame` with a column `view.feature` for every feature. `time` is a timestamp[us, UTC] without nulls."""
    _check(frame, views)
    at_us = frame[time].to_physical().to_numpy()
    columns: list[pl.Series] = []
    for view in views:
        rows = rows_of(view)
        queries = _queries(view, frame, rows)
        columns += (_windows if view.windows else _rows)(view, queries, at_us, rows)
    return frame.hstack(columns)


def _check(frame: pl.DataFrame, views: Sequence[View]) -> None:
    seen = set(frame.columns)
    for view in views:
        if absent := [key for key in view.keys if key not in frame.columns]:
            raise InvalidInput(
                f"view {view.name!r} is keyed by {absent[0]!r}; the rows have {', '.join(frame.columns)}"
            )
        for column in view.ref.columns():
            if column in seen:
                raise InvalidInput(
                    f"column {column!r} would be there twice: name a view once, and rename such a column"
                )
            seen.add(column)


def _queries(view: View, frame: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The keys of the frame in the types of the rows."""
    keys = normal(frame.select(view.keys))
    for key in view.keys:
        if keys.schema[key] not in (rows.schema[key], pl.Null):
            raise InvalidInput(
                f"key {key!r} is {keys.schema[key]}, and source {view.source.name!r} has it as {rows.schema[key]}"
            )
    return keys.cast({key: rows.schema[key] for key in view.keys})


def _windows(view: View, frame: pl.DataFrame, at_us: Ints, events: pl.DataFrame) -> list[pl.Series]:
    found = _history(view, frame, events)
    start = found.start()
    hi = np.maximum(found.position(at_us, inclusive=False), start)
    bounds = {
        length: (np.maximum(found.position(at_us - length, inclusive=False), start), hi)
        for length in {w.window_us for w in view.windows}
    }
    values = {
        name: events[name].cast(pl.Float64).fill_null(np.nan).to_numpy()[found.order] if events.height else np.empty(0)
        for name in view.value_columns()
    }
    computed = windows.columns(view.windows, values, bounds)
    return [pl.Series(f"{view.name}.{name}", array, nan_to_null=True) for name, array in computed.items()]


def _rows(view: View, frame: pl.DataFrame, at_us: Ints, rows: pl.DataFrame) -> list[pl.Series]:
    found = _history(view, frame, rows)
    position = found.position(at_us, inclusive=True)
    present = (found.queries >= 0) & (position > found.start())
    newest = np.maximum(position - 1, 0)
    age_us = at_us - found.times[newest] if len(found.times) else np.zeros(len(at_us), dtype=np.int64)
    if view.ttl_us is not None:
        present &= age_us <= view.ttl_us
    index = pl.Series(found.order[newest] if len(found.times) else newest)
    absent = pl.Series(~present)
    index = index.set(absent, None)
    return [
        (
            pl.Series(age_us / US_PER_S).set(absent, None)
            if feature.column is None
            else rows[feature.name].gather(index)
        ).alias(f"{view.name}.{feature.name}")
        for feature in view.rows
    ]


def _history(view: View, frame: pl.DataFrame, rows: pl.DataFrame) -> History:
    return history(rows, frame, view.keys, view.source.time)


def empty_rows(view: View, key_types: dict[str, pl.DataType]) -> pl.DataFrame:
    """What `rows_of` gives for a source without data: right in its types, without rows."""
    values = {f.name: POLARS_TYPES[f.dtype] for f in stored(view)} | dict.fromkeys(view.value_columns(), pl.Float64())
    identity = {**key_types, view.source.time: pl.Datetime("us", "UTC"), "_id": pl.Int64()}
    return pl.DataFrame(schema={**identity, **values})
