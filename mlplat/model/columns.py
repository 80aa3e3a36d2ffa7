"""Columns as they come (lists, arrays, Arrow) made into what the encoding computes with. Wrong types are refused by
name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplat.errors import InvalidInput
from mlplat.model.signature import ARROW

Columns: TypeAlias = Mapping[str, Sequence[Any]] | pa.Table
Array = np.ndarray[Any, Any]


def doubles(name: str, dtype: str, column: Any) -> Array:
    """float64, NaN where null."""
    if isinstance(column, list) and set(map(type, column)) <= {float, int, NoneType}:
        return np.array(column, dtype=np.float64)
    values: Array = pc.cast(arrow(name, dtype, column), pa.float64(), safe=False).to_numpy()
    return values


def arrow(name: str, dtype: str, column: Any) -> pa.ChunkedArray:
    wanted = ARROW[dtype]
    try:
        if isinstance(column, pa.ChunkedArray | pa.Array):
            chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
            loose = pa.types.is_boolean(chunked.type) != (dtype == "bool")
            if loose and not pa.types.is_null(chunked.type):
                raise wrong_type(name, dtype, f"a column of {chunked.type}")
            return chunked if chunked.type == wanted else chunked.cast(wanted)
        kinds = set(map(type, column))
        if bool in kinds and dtype != "bool":  # Arrow would take it for a number
            raise wrong_type(name, dtype, value=True)
        wide = pa.float64() if dtype == "int64" and float in kinds else wanted
        return pa.chunked_array([pa.array(column, type=wide)])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(f"input {name!r} is not {dtype}: {error}") from None


def column_of(columns: Columns, name: str) -> Any:
    if isinstance(columns, pa.Table):
        if name not in columns.column_names:
            raise InvalidInput(f"input column {name!r} is missing; there are {', '.join(columns.column_names)}")
        return columns.column(name)
    if name not in columns:
        raise InvalidInput(f"input column {name!r} is missing; there are {', '.join(columns)}")
    return columns[name]


def number_of(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise wrong_type(name, "a number", value)
    return float(value)


def same_length(name: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise InvalidInput(f"input column {name!r} has {got} rows where others have {wanted}")


def wrong_type(name: str, wanted: str, value: object) -> InvalidInput:
    return InvalidInput(f"input {name!r}: {value!r} is not {wanted}")
