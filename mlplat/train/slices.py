"""Parts of the rows in which a model may be worse than it is on the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplat.model.signature import Field

Array = np.ndarray[Any, Any]

MOST_VALUES = 20
"""Of texts, so many of the most frequent values are slices."""
FEWEST_ROWS = 100
QUARTERS = 4


def slices(table: pa.Table, fields: tuple[Field, ...]) -> Iterator[tuple[str, Array]]:
    """Name and positions of every slice with FEWEST_ROWS rows: each frequent value of a text or a flag, each quarter of a
    number, and where a field is null."""
    for field in fields:
        column = table.column(field.name)
        for name, mask in _parts(field, column):
            rows = np.flatnonzero(mask)
            if FEWEST_ROWS <= len(rows) < table.num_rows:
                yield f"{field.name} {name}", rows


def _parts(field: Field, column: pa.ChunkedArray) -> Iterator[tuple[str, Array]]:
    null = column.is_null(nan_is_null=True).to_numpy()
    yield "is null", null
    if field.dtype in {"string", "bool"}:
        counted = pc.value_counts(column.drop_null()).to_pylist()
        frequent = sorted(counted, key=lambda item: (-item["counts"], item["values"]))[:MOST_VALUES]
        for item in frequent:
            yield f"= {item['values']!r}", pc.equal(column, item["values"]).fill_null(fill_value=False).to_numpy()
    else:
        yield from _quarters(column.cast(pa.float64()).to_numpy(), ~null)


def _quarters(values: Array, known: Array) -> Iterator[tuple[str, Array]]:
    """Between the quartiles; where many values are equal there are fewer than four."""
    if not known.any():
        return
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, QUARTERS + 1)))
    place = np.searchsorted(edges[1:-1], values, side="left")
    for i in range(len(edges) - 1):
        bracket = "[" if i == 0 else "("
        yield f"in {bracket}{edges[i]:.4g}, {edges[i + 1]:.4g}]", known & (place == i)
