"""What an artifact carries of the rows that its model was made of: golden pairs, reference statistics, requests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mlplat.features.transform import POLARS_TYPES
from mlplat.model.artifact import Golden, Reference
from mlplat.model.model import Model
from mlplat.model.signature import Signature
from mlplat.stats.table import TableSketch

Array = np.ndarray[Any, Any]

ROWS = 8
REFERENCE_ROWS = 100_000
"""So many, evenly spaced, stand for more: quantiles are kept to one percent anyway."""


def golden(model: Model, rows: pa.Table) -> Golden:
    """The first few."""
    few = rows[:ROWS]
    return Golden.of(model, {field.name: few.column(field.name).to_pylist() for field in model.signature.inputs()})


def reference(model: Model, learnt: pa.Table, held_out: pa.Table) -> Reference:
    """The inputs of the rows it learnt from, and its outputs for those held out, or where none are for the same."""
    inputs = _sample(learnt).select([field.name for field in model.signature.inputs()])
    asked = _sample(held_out if held_out.num_rows else learnt)
    outputs = pl.DataFrame(
        {f.name: pl.Series(values, dtype=POLARS_TYPES[f.dtype]) for f, values in _answers(model, asked)}
    )
    typed = pl.DataFrame(inputs).with_columns(
        pl.col(f.name).cast(POLARS_TYPES[f.dtype]) for f in model.signature.inputs()
    )
    return Reference(inputs=TableSketch.of(typed).compact(), outputs=TableSketch.of(outputs).compact())


def requests(signature: Signature, rows: pa.Table) -> list[dict[str, Any]]:
    """The first few, as a caller would ask: entity keys and request fields."""
    names = list(dict.fromkeys(field.name for field in (*signature.entities, *signature.request)))
    return [{name: _plain(value) for name, value in row.items()} for row in rows[:ROWS].select(names).to_pylist()]


def _answers(model: Model, rows: pa.Table) -> list[tuple[Any, Array]]:
    answers = model.predict(rows)
    return [(field, answers[field.name]) for field in model.signature.outputs]


def _sample(rows: pa.Table) -> pa.Table:
    if rows.num_rows <= REFERENCE_ROWS:
        return rows
    return rows.take(pa.array(np.linspace(0, rows.num_rows - 1, REFERENCE_ROWS).astype(np.int64)))


def _plain(value: Any) -> Any:
    """As JSON has it: no NaN, and times as text."""
    if isinstance(value, datetime):
        return value.isoformat()
    return None if value != value else value
