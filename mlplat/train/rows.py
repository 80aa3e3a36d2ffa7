"""The rows of a training set as training sees them: checked labels, and the split by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplat.clock import US_PER_S, iso
from mlplat.errors import InvalidInput

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Positions of the rows for learning (before `cut_us`) and held out (from `cut_us` on)."""

    cut_us: int
    learn: Array
    held_out: Array


def labels_of(table: pa.Table, label: str) -> Array:
    """float64 [rows] of 0 and 1. `InvalidInput` names the column and says what is wrong with it."""
    if label not in table.column_names:
        raise InvalidInput(f"label column {label!r} is absent; there are {', '.join(table.column_names)}")
    column = table.column(label)
    kind = column.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InvalidInput(f"label column {label!r} is {kind}; it must hold 0 and 1, or booleans")
    missing = pc.or_kleene(pc.is_null(column), pc.is_nan(column)) if pa.types.is_floating(kind) else pc.is_null(column)
    if count := pc.sum(missing).as_py():
        first = np.flatnonzero(missing.to_numpy())[:5].tolist()
        raise InvalidInput(
            f"label column {label!r} is null in {count} rows (first {first}): leave out rows without a label"
        )
    values: Array = column.cast(pa.float64(), safe=False).to_numpy()
    other = np.flatnonzero((values != 0) & (values != 1))
    if len(other):
        raise InvalidInput(
            f"label column {label!r} is {values[other[0]]:g} in row {other[0]}; it must hold 0 and 1 alone"
        )
    return values


def times_of(table: pa.Table, time: str) -> Array:
    """int64 microseconds."""
    if time not in table.column_names:
        raise InvalidInput(f"time column {time!r} is absent; there are {', '.join(table.column_names)}")
    column = table.column(time)
    if column.null_count:
        raise InvalidInput(f"time column {time!r} is null in {column.null_count} rows")
    out: Array = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return out


def cut_before_end(times_us: Array, holdout_s: float) -> int:
    """Where the last `holdout_s` seconds begin."""
    if not len(times_us):
        raise InvalidInput("the training set has no rows")
    return int(times_us.max()) - int(holdout_s * US_PER_S) + 1


def split(times_us: Array, cut_us: int) -> Split:
    late = times_us >= cut_us
    return Split(cut_us=cut_us, learn=np.flatnonzero(~late), held_out=np.flatnonzero(late))


def check_split(parts: Split, labels: Array, label: str) -> None:
    """`InvalidInput` if there is nothing to learn from or nothing to judge by."""
    for name, rows in (("to learn from, before", parts.learn), ("held out, from", parts.held_out)):
        if not len(rows):
            raise InvalidInput(f"no rows are left {name} {iso(parts.cut_us)}: give a shorter holdout_s, or more data")
    learnt = labels[parts.learn]
    if learnt.min() == learnt.max():
        raise InvalidInput(
            f"label column {label!r} is {learnt[0]:g} in all {len(learnt)} rows to learn from: nothing to learn"
        )
