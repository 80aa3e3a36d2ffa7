"""The port to what runs transforms elsewhere than in the calling process, and its shape without Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

import polars as pl

from mlplat.features.bucket_tasks import Task, one_by_one
from mlplat.features.chunks import ChunkReader
from mlplat.features.definitions import View
from mlplat.features.maker import Maker

Stopped = Callable[[], bool]
"""Whether the work should end; asked often."""

BATCH_TIMEOUT_S = 3_600.0
ONLINE_TIMEOUT_S = 60.0
"""The longest that a call may take where the view says nothing."""


class Pool(Protocol):
    """Makes a view's rows of its source's, with an object of the user per worker. Thread-safe.

    Raises `UserCodeError` for an error of the user's code, with the view and the row, and for a call that took longer
    than the view's `timeout_s`; `Unavailable` for a worker that died and died again.
    """

    def batch(self, view: View, reader: ChunkReader, *, stopped: Stopped) -> Generator[pl.DataFrame, None, None]:
        """The rows of each chunk, in the order of the chunks; an empty frame for an empty one. Ends early once `stopped()`
        is true."""

    def online(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of a few events, on workers that stay for the next."""

    def run(self, tasks: Sequence[Task], workers: int) -> None:
        """Run tasks that leave their results in files, at most so many at once, and return when all are done."""

    def close(self) -> None:
        """End the workers."""


class InProcess:
    """All of it in this process, one call at a time."""

    def __init__(self) -> None:
        self._makers: dict[str, Maker] = {}
        self._calling = threading.Lock()

    def batch(self, view: View, reader: ChunkReader, *, stopped: Stopped) -> Generator[pl.DataFrame, None, None]:
        maker = Maker(view)
        for at in range(len(reader.chunks)):
            if stopped():
                return
            rows = reader.read(at)
            yield maker.make(rows) if rows.height else rows

    def online(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        with self._calling:
            if view.version not in self._makers:
                self._makers[view.version] = Maker(view)
            return self._makers[view.version].make(rows)

    def run(self, tasks: Sequence[Task], workers: int) -> None:
        one_by_one(tasks, workers)

    def close(self) -> None:
        self._makers.clear()


class OnFirstUse:
    """A pool that `open` makes when it is first used: most processes never need Ray."""

    def __init__(self, open: Callable[[], Pool]) -> None:
        self._open = open
        self._pool: Pool | None = None
        self._opening = threading.Lock()

    def batch(self, view: View, reader: ChunkReader, *, stopped: Stopped) -> Generator[pl.DataFrame, None, None]:
        return self._opened().batch(view, reader, stopped=stopped)

    def online(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        return self._opened().online(view, rows)

    def run(self, tasks: Sequence[Task], workers: int) -> None:
        self._opened().run(tasks, workers)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _opened(self) -> Pool:
        with self._opening:
            if self._pool is None:
                self._pool = self._open()
            return self._pool
