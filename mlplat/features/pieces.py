"""A table cut into pieces that any process can read, each in frames that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from mlplat.errors import InvalidInput
from mlplat.features.buckets import Size
from mlplat.features.files import parquet
from mlplat.features.read_data import frames, to_frame


class Piece(Protocol):
    """Some rows of a table. `first` is the position of the first of them in it."""

    @property
    def first(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def width(self) -> int:
        """About how many bytes a row has in memory."""

    def frames(self, rows: int) -> Iterator[pl.DataFrame]:
        """All of them in their order, at most so many at a time; at least one frame, be it empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePiece:
    """In the memory of this process."""

    frame: pl.DataFrame
    first: int = 0

    @property
    def rows(self) -> int:
        return self.frame.height

    @property
    def width(self) -> int:
        return Size.of(1, self.frame.schema).width

    def frames(self, rows: int) -> Iterator[pl.DataFrame]:
        return self.frame.iter_slices(rows) if self.frame.height else iter([self.frame])


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePiece:
    """Row groups of a Parquet file, with the columns of `schema`. Goes from process to process."""

    fragment: ds.ParquetFileFragment
    schema: pa.Schema
    first: int
    rows: int

    @property
    def width(self) -> int:
        return Size.of(1, _polars(self.schema.empty_table()).schema).width

    def frames(self, rows: int) -> Iterator[pl.DataFrame]:
        try:
            for batch in self.fragment.to_batches(schema=self.schema, batch_size=rows, batch_readahead=2):
                if batch.num_rows:
                    yield _polars(batch)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{self.fragment.path!r} cannot be read: {error}") from None


def pieces_of(data: Any, *, rows: int, scratch: Path | None) -> Sequence[Piece]:
    """`data` (see `read_data.frames`) in its order, in pieces of about `rows` rows, at least one.

    Parquet files stay where they are. Other files and streams, which need not fit in memory, are copied to files in the folder
    `scratch`; a table in memory only if it is to leave this process: with `scratch` None it is one piece. Raises `InvalidInput`.
    """
    found = parquet(str(data)) if isinstance(data, str | Path) else None
    if found is not None:
        return of_files(found, rows)
    if scratch is None:
        return [FramePiece(frame=to_frame(data))]
    _copy(frames(data), rows, scratch)
    copied = parquet(str(scratch))
    assert copied is not None
    return of_files(copied, rows)


def in_memory(data: Any) -> bool:
    """Whether it is a table, and not the way to one."""
    if isinstance(data, pl.DataFrame | pa.Table | list | tuple | dict):
        return True
    return type(data).__module__.split(".")[0] == "pandas"


def of_files(found: ds.Dataset, rows: int) -> Sequence[Piece]:
    """Neighbouring row groups of one file together, until there are about `rows` rows."""
    made: list[Piece] = []
    first = 0
    for fragment in found.get_fragments():
        for groups in _together(fragment.row_groups, rows):
            count = sum(group.num_rows for group in groups)
            part = fragment.subset(row_group_ids=[group.id for group in groups])
            if count:
                made.append(FilePiece(fragment=part, schema=found.schema, first=first, rows=count))
            first += count
    return made or [FramePiece(frame=_polars(found.schema.empty_table()))]


def _together(groups: Sequence[Any], rows: int) -> Iterator[list[Any]]:
    held: list[Any] = []
    for group in groups:
        if held and sum(one.num_rows for one in held) + group.num_rows > rows:
            yield held
            held = []
        held.append(group)
    yield held


def _copy(found: Iterator[pl.DataFrame], rows: int, folder: Path) -> None:
    number = 0
    for frame in found:
        for piece in frame.iter_slices(rows) if frame.height else [frame]:
            piece.write_parquet(folder / f"{number:08}.parquet", compression="lz4")
            number += 1


def _polars(table: pa.Table | pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
