"""Point-in-time joins: for each row of a frame, the features that were known at its time. Rows in, the same rows
out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from mlplat.clock import US_PER_S
from mlplat.errors import InvalidInput
from mlplat.features import asof, windows
from mlplat.features.definitions import AnyView, View
from mlplat.features.late import late_windows
from mlplat.features.transform import POLARS_TYPES, stored
from mlplat.features.validate import normal

Ints = npt.NDArray[np.int64]
RowsOf = Callable[[View], pl.DataFrame]
"""The rows of a view: its keys, the event time, `created` if the source has it, `_id`, and the columns it needs."""


def join(
    frame: pl.DataFrame, views: Sequence[View], *, time: str, rows_of: RowsOf, known_us: int | None = None
) -> pl.DataFrame:
    """`frame` with a column `view.feature` for every feature. `time` is a timestamp[us, UTC] without nulls.

    A row sees what was known at its own time, or, with `known_us`, what was known then (microseconds UTC).
    """
    check(frame, views)
    return frame.hstack(
        [c for view in views for c in columns(frame, view, time=time, rows_of=rows_of, known_us=known_us)]
    )


def check(frame: pl.DataFrame, views: Sequence[AnyView]) -> None:
    """Raises `InvalidInput` if the frame lacks a key of a view, or would have a column twice."""
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


def columns(frame: pl.DataFrame, view: View, *, time: str, rows_of: RowsOf, known_us: int | None) -> list[pl.Series]:
    """The features of one view for every row of the frame, as `view.feature`."""
    table = rows_of(view)
    at_us = frame[time].to_physical().to_numpy()
    source = view.source
    rows = asof.rows_of(table, _queries(view, frame, table), view.keys, source.time, source.created)
    return (_windows if view.windows else _newest)(view, rows, at_us, table, known_us)


def _queries(view: View, frame: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The keys of the frame in the types of the rows."""
    keys = normal(frame.select(view.keys))
    for key in view.keys:
        if keys.schema[key] not in (rows.schema[key], pl.Null):
            raise InvalidInput(
                f"key {key!r} is {keys.schema[key]}, and source {view.source.name!r} has it as {rows.schema[key]}"
            )
    return keys.cast({key: rows.schema[key] for key in view.keys})


def _windows(view: View, rows: asof.Rows, at_us: Ints, table: pl.DataFrame, known_us: int | None) -> list[pl.Series]:
    values = {
        name: table[name].cast(pl.Float64).fill_null(np.nan).to_numpy() if table.height else np.empty(0)
        for name in view.value_columns()
    }
    keep = None if known_us is None else np.flatnonzero(rows.known <= known_us)
    if rows.created is not None:
        until = asof.superseded(rows)
        # The last version of each event that was known by then; without a bound, that ever was.
        latest = until == asof.NEVER_US if known_us is None else (rows.created <= known_us) & (until > known_us)
        keep = np.flatnonzero(latest)
    history = asof.by_time(rows, keep)
    bounds = windows.bounds(view, history, rows.queries, at_us)
    computed = windows.columns(view.windows, {n: array[history.order] for n, array in values.items()}, bounds)
    if rows.created is not None and known_us is None:
        late_windows(view, rows, until, history, bounds, at_us, values, computed)
    return [pl.Series(f"{view.name}.{name}", array, nan_to_null=True) for name, array in computed.items()]


def _newest(view: View, rows: asof.Rows, at_us: Ints, table: pl.DataFrame, known_us: int | None) -> list[pl.Series]:
    keep = None if known_us is None else np.flatnonzero(rows.known <= known_us)
    history = asof.newest_first_known(rows) if keep is None else asof.by_time(rows, keep)
    newest = np.maximum(history.position(rows.queries, at_us, inclusive=True) - 1, 0)
    if not len(history.order):
        return [pl.Series(f"{view.name}.{f.name}", [None] * len(at_us), dtype=POLARS_TYPES[f.dtype]) for f in view.rows]
    row = history.order[newest]
    # The position may be that of another entity's last row.
    present = (rows.queries >= 0) & (rows.entities[row] == rows.queries) & (history.moments[newest] <= at_us)
    age_us = at_us - rows.times[row]
    if view.ttl_us is not None:
        present &= age_us <= view.ttl_us
    index = pl.Series("_row", row).set(pl.Series(~present), None)
    values = table.select(pl.col(f.name).gather(index) for f in stored(view))
    ages = pl.Series(age_us / US_PER_S).set(pl.Series(~present), None)
    return [
        (ages if feature.column is None else values[feature.name]).alias(f"{view.name}.{feature.name}")
        for feature in view.rows
    ]


def empty_rows(view: View, key_types: dict[str, pl.DataType]) -> pl.DataFrame:
    """What `rows_of` gives for a source without data: right in its types, without rows."""
    values = {f.name: POLARS_TYPES[f.dtype] for f in stored(view)} | dict.fromkeys(view.value_columns(), pl.Float64())
    times = dict.fromkeys(view.identity_columns(), pl.Datetime("us", "UTC"))
    return pl.DataFrame(schema={**times, **key_types, "_id": pl.Int64(), **values})
