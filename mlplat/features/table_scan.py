"""A version of a table of events, read a little at a time, by several processes if need be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from mlplat.features.tables import EventTable

_BUFFER_BYTES = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The version of the Delta table at `at`; it does not change. Goes from process to process."""

    at: str
    version: int
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, table: EventTable) -> Snapshot:
        """The newest version. The table is there."""
        now = table.now()
        return cls(at=now.at, version=now.version(), options=now.options)

    def schema(self) -> Mapping[str, pl.DataType]:
        """The types of all columns."""
        frame = pl.from_arrow(pa.schema(self._open().schema().to_arrow()).empty_table())
        assert isinstance(frame, pl.DataFrame)
        return frame.schema

    def rows(self) -> int:
        """How many there are, from the table's log."""
        return int(pc.sum(pa.table(self._open().get_add_actions(flatten=True))["num_records"]).as_py() or 0)

    def scan(self, columns: list[str], *, rows: int, share: tuple[int, int] = (0, 1)) -> Iterator[pl.DataFrame]:
        """The rows, at most `rows` at a time, in little more memory than these need.

        `share` (i, n) is every n-th piece of the table, beginning with number i: n shares are all of it, each row once.
        """
        dataset = self._open().to_pyarrow_dataset()
        schema = pa.schema([dataset.schema.field(name) for name in columns])
        pieces = [(file, group.id) for file in dataset.get_fragments() for group in file.row_groups]
        for file, group in pieces[share[0] :: share[1]]:
            # A scanner of the dataset reads ahead whole columns of a row group: more than twice the memory.
            with dataset.filesystem.open_input_file(file.path) as source:
                opened = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES)
                there = [name for name in columns if name in opened.schema_arrow.names]
                for batch in opened.iter_batches(rows, row_groups=[group], columns=there, use_threads=False):
                    yield _completed(batch, schema)

    def _open(self) -> DeltaTable:
        return DeltaTable(self.at, version=self.version, storage_options=dict(self.options) or None)


def _completed(batch: pa.RecordBatch, schema: pa.Schema) -> pl.DataFrame:
    """In the types of the table; a column that came later than the file is null."""
    held = set(batch.schema.names)
    arrays = [
        batch.column(column.name).cast(column.type) if column.name in held else pa.nulls(len(batch), column.type)
        for column in schema
    ]
    frame = pl.from_arrow(pa.RecordBatch.from_arrays(arrays, schema=schema))
    assert isinstance(frame, pl.DataFrame)
    return frame
