"""The sketches of a table's columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from mlplat.stats.column import ColumnSketch
from mlplat.stats.packed import pack, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSketch:
    """Rows, and a sketch by column. A column that only one of two tables has is null in the rows of the other."""

    rows: int = 0
    columns: Mapping[str, ColumnSketch]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> TableSketch:
        """Raises `InvalidInput` for a column that is not in normal form."""
        return cls(rows=frame.height, columns={column.name: ColumnSketch.of(column) for column in frame})

    def merge(self, other: TableSketch) -> TableSketch:
        """Of the rows of both. Raises `InvalidInput` for a column that has two types."""
        names = dict.fromkeys([*self.columns, *other.columns])
        merged = {name: self._column(name, other).merge(other._column(name, self)) for name in names}
        return TableSketch(rows=self.rows + other.rows, columns=merged)

    def _column(self, name: str, other: TableSketch) -> ColumnSketch:
        if name in self.columns:
            return self.columns[name]
        return ColumnSketch(kind=other.columns[name].kind, rows=self.rows, nulls=self.rows)

    def compact(self) -> TableSketch:
        """The same in at most `column.MAX_BYTES` a column."""
        return TableSketch(rows=self.rows, columns={name: sketch.compact() for name, sketch in self.columns.items()})

    def to_bytes(self) -> bytes:
        parts = [sketch.to_bytes() for sketch in self.columns.values()]
        return pack({"rows": self.rows, "columns": list(self.columns)}, parts)

    @classmethod
    def from_bytes(cls, raw: bytes) -> TableSketch:
        """Raises `Corrupt`."""
        header, parts = unpack(raw)
        pairs = zip(header["columns"], parts, strict=True)
        return cls(rows=header["rows"], columns={name: ColumnSketch.from_bytes(part) for name, part in pairs})
