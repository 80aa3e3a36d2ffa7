"""Making the rows of a view that are not made yet: chunk by chunk, each written once, so that a process killed at any
moment loses at most the chunks that it had not written, and the next one goes on behind them.

How far the view has come stands in its own table, written in the same commit as the rows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from mlplat.clock import Clock
from mlplat.errors import Conflict, Refused
from mlplat.features.chunks import Chunk, ChunkReader, Pending, Place
from mlplat.features.definitions import View
from mlplat.features.pool import Pool
from mlplat.features.table_version import TableVersion, arrow_schema
from mlplat.features.tables import EventTable

INLINE_ROWS = 1_000
"""Up to so many rows are made in this process: starting actors would take longer."""
CHUNK_BYTES = 32 * 2**20
"""The most of the source that an actor holds at a time, about."""
CHUNKS_PER_ACTOR = 8
"""So many at least, so that no actor is idle for long while others work."""
FEWEST_ROWS = 256
COMMIT_BYTES = 32 * 2**20
COMMIT_S = 10.0
"""A commit when so much is made, or so long after the last: what a kill can cost."""


COMMITS = "chunks"
"""The transaction that counts the commits of a view's table."""
Make = Callable[[pl.DataFrame], pl.DataFrame]


class Stopped(Refused):
    """Work was stopped on request. What it had done is kept, and the next call goes on from there."""


class Watch(Protocol):
    """What long work tells about itself, and where it hears that it should stop. Called by one thread."""

    def begin(self, phase: str, *, done: int, total: int) -> None:
        """Of `total` rows `done` were there already."""

    def advance(self, rows: int) -> None:
        """So many more are done. Must return quickly."""

    def stopped(self) -> bool:
        """Whether to stop."""


class Unwatched:
    """Nobody looks, and nobody stops it."""

    def begin(self, phase: str, *, done: int, total: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def stopped(self) -> bool:
        return False


def check(watch: Watch) -> None:
    """Raises `Stopped`."""
    if watch.stopped():
        raise Stopped("the work was stopped; what it had done is kept, and the same call goes on from there")


def chunk_rows(pending: int, most: int, actors: int) -> int:
    """How many rows a chunk has: enough chunks to keep all actors at work, and none with more than `most`."""
    fair = math.ceil(pending / (CHUNKS_PER_ACTOR * actors))
    return min(most, max(fair, FEWEST_ROWS))


def place(table: TableVersion) -> Place:
    """How far the view's table has come in its source."""
    done, batch = table.transaction("source"), table.transaction("source/batch")
    if batch <= done:
        return Place(done=done)
    return Place(done=done, batch=batch, key=(table.transaction("source/time"), table.transaction("source/id")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """Of one view: from the table of its source to its own."""

    view: View
    source: EventTable
    table: EventTable
    pool: Pool
    clock: Clock

    def run(
        self,
        *,
        inline: Make,
        check_first: Callable[[pl.DataFrame], None],
        watch: Watch,
    ) -> None:
        """Make what the source has now. `inline` makes a few rows here; `check_first` looks at rows of the source before
        the first are made. Called with the lock of the view's table held. Raises `Stopped`."""
        begun = self.table.now()
        since, upto = place(begun), self.source.version()
        if upto <= since.done:
            return
        time = self.view.source.time
        pending = Pending.of(self.source, time, since=since, upto=upto)
        if not pending.rows:
            return
        size = chunk_rows(pending.rows, pending.rows_in(CHUNK_BYTES), self.view.actors[1])
        few = pending.rows <= INLINE_ROWS
        chunks = pending.chunks(INLINE_ROWS if few else size)
        reader = ChunkReader(table=self.source, time=time, chunks=tuple(chunks))
        if since == Place():
            check_first(reader.read(0))
        total = self.source.height()
        watch.begin("rows", done=total - pending.rows, total=total)
        commits = begun.transaction(COMMITS)
        if few:
            made_here = map(inline, map(reader.read, range(len(chunks))))
            self._write(zip(chunks, made_here, strict=True), watch, commits)
            return
        with contextlib.closing(self.pool.batch(self.view, reader, stopped=watch.stopped)) as made:
            self._write(zip(chunks, made, strict=False), watch, commits)
        check(watch)

    def _write(self, made: Iterable[tuple[Chunk, pl.DataFrame]], watch: Watch, commits: int) -> None:
        waiting: list[pl.DataFrame] = []
        end = Place()
        written_s = self.clock.elapsed_s()
        for chunk, rows in made:
            waiting.append(rows)
            end = chunk.end
            size = sum(frame.estimated_size() for frame in waiting)
            if size >= COMMIT_BYTES or self.clock.elapsed_s() - written_s >= COMMIT_S:
                commits = self._commit(waiting, end, commits)
                waiting, written_s = [], self.clock.elapsed_s()
            watch.advance(rows.height)
        self._commit(waiting, end, commits)

    def _commit(self, waiting: list[pl.DataFrame], end: Place, commits: int) -> int:
        """Behind the commits of this run, or not at all: where a store has no locks two processes may be at it."""
        frames = [frame for frame in waiting if frame.height]
        if not frames:
            return commits
        reached = {"source": end.done}
        if end.key is not None:
            reached |= {"source/batch": end.batch, "source/time": end.key[0], "source/id": end.key[1]}
        now = self.table.now()
        if now.transaction(COMMITS) != commits:
            raise Conflict(f"view {self.view.name!r}: another process makes its rows too; wait for it, and call again")
        now.commit(arrow_schema(frames[0]), frames, ids={COMMITS: commits + 1, **reached})
        return commits + 1
