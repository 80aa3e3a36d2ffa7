"""From columns to the numbers that a network reads. Fitted on the training rows, kept in the model, the same in
training and serving.

A row's numbers depend on that row alone, to the byte. Few rows go through one small array (Arrow's fixed costs are larger
than the work), many through Arrow and an array for each column: the same arithmetic in IEEE doubles, and a property test
holds them together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplat.errors import InvalidInput
from mlplat.model.columns import Columns, arrow, column_of, doubles, number_of, same_length, wrong_type
from mlplat.model.signature import Field

Array = np.ndarray[Any, Any]

NULL, UNSEEN, RESERVED_SLOTS = 0, 1, 2
FEW_ROWS = 16
_NUMBERS = frozenset({float, int})
CLIP = 10.0
MIN_COUNT = 5
MAX_VOCABULARY = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericInput:
    """`(value - mean) / scale`, limited to ±CLIP. Null and NaN become the mean; `indicator` adds a column that says
    so."""

    name: str
    dtype: str
    mean: float
    scale: float
    indicator: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoricalInput:
    """Slot 0 is null, slot 1 a value that training did not show (often enough), then the vocabulary in order."""

    name: str
    dtype: str
    vocabulary: tuple[str | bool, ...]


@dataclass(frozen=True, kw_only=True)
class InputEncoding:
    """What was learnt of each input column. `encode` gives float32 [n, width] and int64 codes [n, categorical
    columns]."""

    numeric: tuple[NumericInput, ...]
    categorical: tuple[CategoricalInput, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return (*(column.name for column in self.numeric), *(column.name for column in self.categorical))

    @property
    def width(self) -> int:
        return len(self.numeric) + sum(column.indicator for column in self.numeric)

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple(RESERVED_SLOTS + len(column.vocabulary) for column in self.categorical)

    @classmethod
    def fit(cls, table: pa.Table, fields: Sequence[Field]) -> InputEncoding:
        """Learn from the training rows. `InvalidInput` names a column that is missing or cannot be an input."""
        numeric, categorical = [], []
        for field in fields:
            if field.dtype == "timestamp":
                raise InvalidInput(
                    f"input {field.name!r} is a timestamp, which a model cannot read: give what matters of it "
                    "as numbers (hour of the day, seconds since an event)"
                )
            column = column_of(table, field.name)
            if field.dtype in {"float64", "int64"}:
                numeric.append(_fit_numeric(field, doubles(field.name, field.dtype, column)))
            else:
                categorical.append(_fit_categorical(field, arrow(field.name, field.dtype, column)))
        return cls(numeric=tuple(numeric), categorical=tuple(categorical))

    def encode(self, columns: Columns) -> tuple[Array, Array]:
        """`InvalidInput` names a missing column, a value of a wrong type, or columns of unequal length."""
        column = columns.get(self.names[0]) if isinstance(columns, Mapping) and self.names else None
        try:
            if isinstance(column, list | tuple) and len(column) <= FEW_ROWS:
                return self._encode_few(columns, len(column))
            return self._encode_many(columns)
        except OverflowError:
            raise InvalidInput("an input column has a whole number that is too large") from None

    def raw(self, columns: Columns) -> tuple[list[Array], list[Array]]:
        """Column by column, without scaling: float64, NaN where null; and int64 codes. Errors as in `encode`."""
        rows = len(column_of(columns, self.names[0])) if self.names else 0
        numbers = [doubles(c.name, c.dtype, column_of(columns, c.name)) for c in self.numeric]
        codes = [self._codes(i, columns) for i in range(len(self.categorical))]
        for name, values in zip(self.names, (*numbers, *codes), strict=True):
            same_length(name, len(values), rows)
        return numbers, codes

    def to_json(self) -> dict[str, Any]:
        return {
            "numeric": [asdict(column) for column in self.numeric],
            "categorical": [{**asdict(column), "vocabulary": list(column.vocabulary)} for column in self.categorical],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputEncoding:
        return cls(
            numeric=tuple(NumericInput(**column) for column in value["numeric"]),
            categorical=tuple(
                CategoricalInput(**{**column, "vocabulary": tuple(column["vocabulary"])})
                for column in value["categorical"]
            ),
        )

    @cached_property
    def _numeric_plan(self) -> tuple[tuple[float, float], ...]:
        return tuple((c.mean, c.scale) for c in self.numeric)

    @cached_property
    def _categorical_plan(self) -> tuple[tuple[str, type, dict[Any, int]], ...]:
        return tuple(
            (c.name, bool if c.dtype == "bool" else str, {v: i for i, v in enumerate(c.vocabulary, RESERVED_SLOTS)})
            for c in self.categorical
        )

    def _encode_few(self, columns: Mapping[str, Sequence[Any]], rows: int) -> tuple[Array, Array]:
        try:
            given = [columns[name] for name in self.names]
        except KeyError:
            given = [column_of(columns, name) for name in self.names]  # says which
        for name, column in zip(self.names, given, strict=True):
            if len(column) != rows:
                same_length(name, len(column), rows)
        count = len(self.numeric)
        by_row = [self._scaled(row) for row in zip(*given[:count], strict=True)]
        if by_row and self.width == count and all(map(_ordinary, by_row)):
            numbers = np.array(by_row, dtype=np.float32)
        else:
            numbers = self._limited(np.array(by_row, dtype=np.float64).reshape(rows, count))
        return numbers, self._few_codes(given[count:], rows)

    def _limited(self, scaled: Array) -> Array:
        """With what is beyond the limits, null or infinite."""
        rows, count = scaled.shape
        absent = np.isnan(scaled)
        numbers = np.zeros((rows, self.width), dtype=np.float32)
        numbers[:, :count] = np.where(absent, 0.0, np.minimum(np.maximum(scaled, -CLIP), CLIP))
        numbers[:, count:] = absent[:, [c.indicator for c in self.numeric]]
        return numbers

    def _scaled(self, row: Sequence[Any]) -> list[float]:
        if not _NUMBERS.issuperset(map(type, row)):
            row = [number_of(column.name, value) for column, value in zip(self.numeric, row, strict=True)]
        return [(value - mean) / scale for value, (mean, scale) in zip(row, self._numeric_plan, strict=True)]

    def _few_codes(self, given: Sequence[Sequence[Any]], rows: int) -> Array:
        codes = np.empty((rows, len(self.categorical)), dtype=np.int64)
        for i, (name, kind, slots) in enumerate(self._categorical_plan):
            for row, value in enumerate(given[i]):
                if value is not None and type(value) is not kind:
                    raise wrong_type(name, kind.__name__, value)
                codes[row, i] = NULL if value is None else slots.get(value, UNSEEN)
        return codes

    def _encode_many(self, columns: Columns) -> tuple[Array, Array]:
        rows = len(column_of(columns, self.names[0])) if self.names else 0
        numbers = np.zeros((rows, self.width), dtype=np.float32)
        codes = np.empty((rows, len(self.categorical)), dtype=np.int64)
        flag = len(self.numeric)
        for i, number in enumerate(self.numeric):
            values = doubles(number.name, number.dtype, column_of(columns, number.name))
            same_length(number.name, len(values), rows)
            absent = np.isnan(values)
            with np.errstate(over="ignore"):  # an overflow is infinite, and limited with the rest
                scaled = np.clip((values - number.mean) / number.scale, -CLIP, CLIP)
            numbers[:, i] = np.where(absent, 0.0, scaled)
            if number.indicator:
                numbers[:, flag] = absent
                flag += 1
        for i, category in enumerate(self.categorical):
            same_length(category.name, len(column_of(columns, category.name)), rows)
            codes[:, i] = self._codes(i, columns)
        return numbers, codes

    def _codes(self, i: int, columns: Columns) -> Array:
        category = self.categorical[i]
        column = column_of(columns, category.name)
        if isinstance(column, list):
            return _listed_slots(column, *self._categorical_plan[i])
        return _slots(arrow(category.name, category.dtype, column), category)


def _ordinary(scaled: list[float]) -> bool:
    """Nothing is null, nor beyond the limits."""
    total = sum(scaled)
    return total == total and min(scaled) >= -CLIP and max(scaled) <= CLIP


def _fit_numeric(field: Field, values: Array) -> NumericInput:
    present = values[np.isfinite(values)]
    mean = float(present.mean()) if present.size else 0.0
    spread = float(present.std()) if present.size else 0.0
    scale = spread if math.isfinite(spread) and spread > 1e-12 * max(1.0, abs(mean)) else 1.0
    indicator = bool(np.isnan(values).any())  # one that is constant in training would only be noise in serving
    return NumericInput(name=field.name, dtype=field.dtype, mean=mean, scale=scale, indicator=indicator)


def _fit_categorical(field: Field, column: pa.ChunkedArray) -> CategoricalInput:
    """The most frequent values, in their own order. Rare ones stay out, so that training shows the unseen slot too."""
    counted = [
        (item["values"], item["counts"]) for item in pc.value_counts(column).to_pylist() if item["values"] is not None
    ]
    frequent = sorted((v for v in counted if v[1] >= MIN_COUNT), key=lambda item: (-item[1], item[0]))
    vocabulary = sorted(value for value, _ in frequent[:MAX_VOCABULARY])
    return CategoricalInput(name=field.name, dtype=field.dtype, vocabulary=tuple(vocabulary))


def _slots(column: pa.ChunkedArray, category: CategoricalInput) -> Array:
    vocabulary = pa.array(category.vocabulary, type=column.type)
    found = pc.add(pc.index_in(column, value_set=vocabulary, skip_nulls=True), RESERVED_SLOTS)
    slots = pc.if_else(pc.is_null(column), NULL, pc.fill_null(found, UNSEEN))
    out: Array = slots.to_numpy().astype(np.int64)
    return out


def _listed_slots(column: list[Any], name: str, kind: type, slots: Mapping[Any, int]) -> Array:
    if not set(map(type, column)) <= {kind, NoneType}:
        raise wrong_type(name, kind.__name__, next(v for v in column if type(v) not in {kind, NoneType}))
    return np.array([NULL if value is None else slots.get(value, UNSEEN) for value in column], dtype=np.int64)
