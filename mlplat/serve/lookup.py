"""Reading features from an online store that is a server: off the event loop, and for no longer than a request may wait.

A store in the process answers in microseconds, and needs none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mlplat.errors import Unavailable
from mlplat.features.online import FeatureReader, OnlineRows, Status
from mlplat.model.signature import FeatureRef

THREADS = 16


class Lookup:
    """Reads on a few threads. A read that takes longer than its caller waits goes on there until the store's own time limit;
    while all threads are held by such reads, everybody else is late at once. For one event loop."""

    def __init__(self, reader: FeatureReader, *, threads: int = THREADS) -> None:
        self._reader = reader
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mlplat-features")
        self._overdue: set[Future[OnlineRows]] = set()

    async def read(
        self,
        refs: Sequence[FeatureRef],
        keys: Mapping[str, Sequence[Any]],
        at_us: Sequence[int],
        keep: Collection[str],
        *,
        limit_s: float,
    ) -> OnlineRows:
        """What the reader gives. All null, and "late", if that takes more than `limit_s`; "unavailable" if the store fails."""
        if self._overdue:
            self._overdue = {read for read in self._overdue if not read.done()}
            if len(self._overdue) >= self._threads:
                return without(refs, len(at_us), "late")
        reading = self._pool.submit(self._reader.read, refs, keys, at_us, keep)
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.wrap_future(reading)
        except TimeoutError:
            return without(refs, len(at_us), "late")
        except Unavailable:
            return without(refs, len(at_us), "unavailable")
        finally:
            if (
                not reading.cancel() and not reading.done()
            ):  # one that waits for a thread is cancelled, one that has it is not
                self._overdue.add(reading)

    def close(self) -> None:
        """What still reads ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def without(refs: Sequence[FeatureRef], rows: int, status: Status) -> OnlineRows:
    """No features, and why."""
    columns = {column: [None] * rows for ref in refs for column in ref.columns()}
    return OnlineRows(columns=columns, status={ref.view: [status] * rows for ref in refs})
