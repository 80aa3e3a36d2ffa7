"""Features of many entities at once, by column: what the blobs of a view are decoded into in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.online import Status
from mlplat.features.transform import POLARS_TYPES
from mlplat.model.signature import FeatureRef, Field

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]

OK, EXPIRED, MISSING = 0, 1, 2
STATUS: tuple[Status, ...] = ("ok", "expired", "missing")
"""By code; of several that a value depends on, the greatest holds."""


class Layout:
    """What the fields of a view say about the columns of its blocks."""

    def __init__(self, ref: FeatureRef) -> None:
        self.ref = ref
        self.fields: tuple[Field, ...] = ref.fields
        self.columns = ref.columns()
        self.texts = tuple(i for i, f in enumerate(ref.fields) if f.dtype == "string")
        self.floats = np.array([f.dtype == "float64" for f in ref.fields], dtype=bool)
        self.all_floats = bool(self.floats.all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """f features of n entities.

    `codes` (n) index `STATUS`. `numbers` (n x f) are 64-bit integers, or the bits of floats; a text's are nothing. `null`
    (n x f) is None if no value is null; what stands at a null is nothing. `texts` are the text columns by position.
    """

    layout: Layout
    codes: Codes
    numbers: Ints
    null: Mask | None
    texts: Mapping[int, Sequence[str | None]]

    @property
    def status(self) -> list[Status]:
        return [STATUS[code] for code in self.codes.tolist()]

    def matrix(self) -> Floats:
        """All features as float64, null as NaN; a time is its microseconds UTC. Raises `InvalidInput` for texts."""
        layout = self.layout
        if layout.texts:
            names = ", ".join(repr(layout.fields[i].name) for i in layout.texts)
            raise InvalidInput(f"view {layout.ref.view!r} has text features, which no matrix holds: {names}")
        made: Floats = self.numbers.view(np.float64).copy()
        if not layout.all_floats:
            made[:, ~layout.floats] = self.numbers[:, ~layout.floats]
        if self.null is not None:
            made[self.null] = np.nan
        return made

    def values(self, column: int) -> list[Any]:
        """A column as Python's values; a time is an int, its microseconds UTC."""
        if column in self.texts:
            return list(self.texts[column])
        values: list[Any] = self._typed(column).tolist()
        if self.null is not None:
            for at in np.flatnonzero(self.null[:, column]).tolist():
                values[at] = None
        return values

    def series(self, column: int) -> pl.Series:
        """A column in its type."""
        field = self.layout.fields[column]
        if column in self.texts:
            return pl.Series(field.name, self.texts[column], dtype=pl.String)
        made = pl.Series(field.name, np.ascontiguousarray(self._typed(column))).cast(POLARS_TYPES[field.dtype])
        return made if self.null is None else made.set(pl.Series(self.null[:, column]), None)

    def _typed(self, column: int) -> npt.NDArray[Any]:
        raw = self.numbers[:, column]
        dtype = self.layout.fields[column].dtype
        return raw.view(np.float64) if dtype == "float64" else raw != 0 if dtype == "bool" else raw

    @classmethod
    def of_frame(cls, layout: Layout, frame: pl.DataFrame, codes: Codes) -> Block:
        """Of columns that are in their types."""
        shape = (frame.height, len(layout.fields))
        numbers, null = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        texts: dict[int, Sequence[str | None]] = {}
        for i, field in enumerate(layout.fields):
            column = frame[field.name]
            null[:, i] = column.is_null().to_numpy()
            if field.dtype == "string":
                texts[i] = column.to_list()
            elif field.dtype == "float64":
                numbers.view(np.float64)[:, i] = column.fill_null(0.0).to_numpy()
            else:
                numbers[:, i] = column.to_physical().cast(pl.Int64).fill_null(0).to_numpy()
        return cls(layout=layout, codes=codes, numbers=numbers, null=null if null.any() else None, texts=texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Features of n entities at one moment, as `platform.features.online` gives them.

    `names` are the feature columns: the view's own names if one view was asked for, else `view.feature`. `at_us` is the
    moment (microseconds UTC). What is not asked for is not made.
    """

    keys: Mapping[str, Sequence[Any]]
    blocks: tuple[Block, ...]
    qualified: bool
    at_us: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(
            column if self.qualified else field.name
            for block in self.blocks
            for column, field in zip(block.layout.columns, block.layout.fields, strict=True)
        )

    @property
    def status(self) -> dict[str, list[Status]]:
        """By view, for each entity: "ok", "missing" (the store has nothing, or not for that moment), or "expired" (older
        than the view's time-to-live)."""
        return {block.layout.ref.view: block.status for block in self.blocks}

    def numpy(self) -> Floats:
        """(n x features), float64: null is NaN, true is 1.0, a time is its microseconds UTC. Raises `InvalidInput` for
        texts, by name."""
        matrices = [block.matrix() for block in self.blocks]
        return matrices[0] if len(matrices) == 1 else np.hstack(matrices)

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`: the keys, the features in their types, and `status`, or `status.view` of each of several
        views."""
        return self.to_polars().to_arrow(compat_level=pl.CompatLevel.oldest())

    def to_polars(self) -> pl.DataFrame:
        """The same as `to_arrow`, as a polars DataFrame."""
        features = [block.series(i) for block in self.blocks for i in range(len(block.layout.fields))]
        status = [
            pl.Series(f"status.{view}" if self.qualified else "status", values, dtype=pl.String)
            for view, values in self.status.items()
        ]
        keys = [pl.Series(name, values) for name, values in self.keys.items()]
        return pl.DataFrame([*keys, *(s.alias(n) for s, n in zip(features, self.names, strict=True)), *status])
