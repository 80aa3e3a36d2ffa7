"""A table's rows in pieces that fit in memory, in an order that does not depend on its files: by batch, and within a
large batch by event time and `_id`. A place in that order says exactly which rows come before it, so work that was
interrupted goes on there, whatever compaction did to the files meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from mlplat.features.tables import BATCH, ID, EventTable

Ints = npt.NDArray[np.int64]
Key = tuple[int, int]
"""Event time (microseconds UTC) and `_id`."""
_SAMPLE = 500_000
_SHOWN = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Before it are all rows of the batches up to `done`, and those of batch `batch` up to `key`."""

    done: int = -1
    batch: int = -1
    key: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The rows of the batches `first` to `last`; of the first only those behind `after`, and where it is the only one
    perhaps only those up to `until`.

    `rows` is how many there are, about.
    """

    first: int
    last: int
    after: Key | None = None
    until: Key | None = None
    rows: int

    @property
    def end(self) -> Place:
        """The place behind it."""
        if self.until is None:
            return Place(done=self.last)
        return Place(done=self.last - 1, batch=self.last, key=self.until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The rows of a table between a place and a batch, by batch; counting them reads one column."""

    table: EventTable
    time: str
    since: Place
    counts: dict[int, int]

    @classmethod
    def of(cls, table: EventTable, time: str, *, since: Place, upto: int) -> Pending:
        """`upto` is the last batch to look at."""
        found: dict[int, int] = {}
        for piece in table.scan([BATCH], where=_behind(time, since) & (ds.field(BATCH) <= upto)):
            for batch, count in piece[BATCH].value_counts().iter_rows():
                found[batch] = found.get(batch, 0) + count
        return cls(table=table, time=time, since=since, counts=dict(sorted(found.items())))

    @property
    def rows(self) -> int:
        return sum(self.counts.values())

    def rows_in(self, size: int) -> int:
        """How many of the rows are about `size` bytes in memory, by the first of them. A few are not looked at."""
        if self.rows <= _SHOWN:
            return _SHOWN
        first = next(self.table.scan(where=_behind(self.time, self.since)), pl.DataFrame()).head(_SHOWN)
        return max(1, size * first.height // max(1, int(first.estimated_size())))

    def chunks(self, rows: int) -> list[Chunk]:
        """Of about `rows` rows at most. Rows with one batch, time and id are never torn apart."""
        made: list[Chunk] = []
        group: list[int] = []
        for batch, count in self.counts.items():
            if group and sum(self.counts[b] for b in group) + count > rows:
                made.append(self._group(group))
                group = []
            if count > rows:
                made += self._split(batch, rows)
            else:
                group.append(batch)
        return [*made, self._group(group)] if group else made

    def _group(self, batches: Sequence[int]) -> Chunk:
        begun = self.since.key if batches[0] == self.since.batch else None
        return Chunk(first=batches[0], last=batches[-1], after=begun, rows=sum(self.counts[b] for b in batches))

    def _split(self, batch: int, rows: int) -> Iterator[Chunk]:
        """By the quantiles of every n-th row."""
        count = self.counts[batch]
        step = max(1, count // _SAMPLE)
        times, ids = self._sample(batch, step)
        order = np.lexsort((ids, times))
        at = order[np.arange(max(1, rows // step), len(order), max(1, rows // step)) - 1]
        last = (int(times[order[-1]]), int(ids[order[-1]]))
        borders = sorted({(int(times[i]), int(ids[i])) for i in at} - {last})
        after = self.since.key if batch == self.since.batch else None
        number = len(borders) + 1
        for i, until in enumerate([*borders, None]):
            about = count * (i + 1) // number - count * i // number
            yield Chunk(first=batch, last=batch, after=after, until=until, rows=about)
            after = until

    def _sample(self, batch: int, step: int) -> tuple[Ints, Ints]:
        times, ids, seen = [], [], 0
        where = _behind(self.time, self.since) & (ds.field(BATCH) == batch)
        for piece in self.table.scan([self.time, ID], where=where):
            taken = piece[-seen % step :: step] if step > 1 else piece
            seen += piece.height
            times.append(taken[self.time].to_physical().to_numpy())
            ids.append(taken[ID].to_numpy())
        return np.concatenate(times), np.concatenate(ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkReader:
    """Chunks of a table, for any process of the machine."""

    table: EventTable
    time: str
    chunks: tuple[Chunk, ...]
    columns: tuple[str, ...] | None = None

    def read(self, at: int) -> pl.DataFrame:
        """The rows of the chunk, in no particular order; an empty frame without columns if it has none."""
        columns = None if self.columns is None else list(self.columns)
        pieces = list(self.table.scan(columns, where=self._where(self.chunks[at])))
        return pl.concat(pieces) if pieces else pl.DataFrame()

    def _where(self, chunk: Chunk) -> ds.Expression:
        batch = ds.field(BATCH)
        where = (batch >= chunk.first) & (batch <= chunk.last)
        if chunk.after is not None:
            behind = _greater(self.time, chunk.after)
            where &= behind if chunk.first == chunk.last else (batch > chunk.first) | behind
        if chunk.until is not None:
            where &= ~_greater(self.time, chunk.until) & (ds.field(self.time) <= _time(chunk.until))
        return where


def _behind(time: str, place: Place) -> ds.Expression:
    """The rows that come behind a place."""
    where = ds.field(BATCH) > place.done
    if place.key is not None and place.batch > place.done:
        where &= (ds.field(BATCH) > place.batch) | _greater(time, place.key)
    return where


def _greater(time: str, key: Key) -> ds.Expression:
    at = ds.field(time)
    return (at > _time(key)) | ((at == _time(key)) & (ds.field(ID) > key[1]))


def _time(key: Key) -> pa.Scalar:
    return pa.scalar(key[0], pa.timestamp("us", "UTC"))
