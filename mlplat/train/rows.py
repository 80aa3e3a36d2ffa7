"""The rows of a training set as training sees them: checked labels, and the split by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplat.clock import US_PER_S, iso
from mlplat.errors import InvalidInput
from mlplat.model.task import Task
from mlplat.train.settings import TaskKind

Array = np.ndarray[Any, Any]


NEVER_US = 2**63 - 1
"""A time that no row has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Positions of the rows for learning (before `cut_us`) and held out (from `cut_us` on)."""

    cut_us: int
    learn: Array
    held_out: Array


def task_of(table: pa.Table, label: str, kind: TaskKind) -> Task:
    """The task, with the classes that the label shows. `InvalidInput` names the column and says what is wrong with it."""
    column = _label(table, label)
    if kind != "multiclass":
        encoded_labels(table, label, Task(kind=kind))
        return Task(kind=kind)
    if not (
        pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_integer(column.type)
    ):
        raise InvalidInput(f"label column {label!r} is {column.type}; classes are texts or integers")
    classes = sorted(pc.unique(column).to_pylist())
    if len(classes) < 2:
        raise InvalidInput(f"label column {label!r} is {classes[0]!r} in all rows: nothing to learn")
    return Task(kind="multiclass", classes=tuple(classes))


def encoded_labels(table: pa.Table, label: str, task: Task) -> Array:
    """[rows]: float64 0 and 1, int64 places in the classes, or float64. `InvalidInput` as above."""
    column = _label(table, label)
    if task.kind == "multiclass":
        found = pc.index_in(column, value_set=pa.array(task.classes, type=column.type))
        return _numpy(found.cast(pa.int64()))
    kind = column.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        wanted = "0 and 1, or booleans" if task.kind == "binary" else "numbers"
        raise InvalidInput(f"label column {label!r} is {kind}; it must hold {wanted}")
    values = _numpy(column.cast(pa.float64(), safe=False))
    allowed = np.isin(values, (0.0, 1.0)) if task.kind == "binary" else np.isfinite(values)
    other = np.flatnonzero(~allowed)
    if len(other):
        wanted = "0 and 1 alone" if task.kind == "binary" else "finite numbers"
        raise InvalidInput(f"label column {label!r} is {values[other[0]]:g} in row {other[0]}; it must hold {wanted}")
    return values


def _label(table: pa.Table, label: str) -> pa.ChunkedArray:
    """Without nulls."""
    if label not in table.column_names:
        raise InvalidInput(f"label column {label!r} is absent; there are {', '.join(table.column_names)}")
    column = table.column(label)
    floating = pa.types.is_floating(column.type)
    missing = pc.or_kleene(pc.is_null(column), pc.is_nan(column)) if floating else pc.is_null(column)
    if count := pc.sum(missing).as_py():
        first = np.flatnonzero(missing.to_numpy())[:5].tolist()
        raise InvalidInput(
            f"label column {label!r} is null in {count} rows (first {first}): leave out rows without a label"
        )
    return column


def _numpy(column: Any) -> Array:
    out: Array = column.to_numpy()
    return out


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


def check_split(parts: Split, table: pa.Table, label: str) -> None:
    """`InvalidInput` if there is nothing to learn from or nothing to judge by."""
    for name, rows in (("to learn from, before", parts.learn), ("held out, from", parts.held_out)):
        if not len(rows):
            raise InvalidInput(f"no rows are left {name} {iso(parts.cut_us)}: give a shorter holdout_s, or more data")
    learnt = pc.min_max(table.column(label).take(pa.array(parts.learn))).as_py()
    if learnt["min"] == learnt["max"]:
        raise InvalidInput(
            f"label column {label!r} is {learnt['min']} in all {len(parts.learn)} rows to learn from: nothing to learn"
        )
