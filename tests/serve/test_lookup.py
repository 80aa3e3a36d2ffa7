"""Reads from a store that is a server: off the loop, in time, and never more than the threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from mlplat.errors import Unavailable
from mlplat.features.online import OnlineRows
from mlplat.model.signature import FeatureRef
from mlplat.serve.lookup import Lookup, without
from tests.serve.models import SIGNATURE, FakeReader

REFS = SIGNATURE.features
KEYS = {"origin": ["JFK", "XXX"], "tail": ["N1", "N1"]}


class Held(FakeReader):
    """Answers when it is let; remembers how many reads were there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.began = threading.Semaphore(0)
        self.counting = threading.Lock()
        self.running = self.most = self.reads = 0

    def read(self, refs: Sequence[FeatureRef], keys: Any, at_us: Sequence[int], keep: Any = ()) -> OnlineRows:
        with self.counting:
            self.running += 1
            self.reads += 1
            self.most = max(self.most, self.running)
        self.began.release()
        self.free.wait()
        with self.counting:
            self.running -= 1
        return super().read(refs, keys, at_us, keep)


@contextmanager
def looking(reader: FakeReader, threads: int = 2) -> Iterator[Lookup]:
    lookup = Lookup(reader, threads=threads)
    try:
        yield lookup
    finally:
        if isinstance(reader, Held):
            reader.free.set()
        lookup.close()


async def read(lookup: Lookup, limit_s: float = 60.0) -> OnlineRows:
    return await lookup.read(REFS, KEYS, [1, 2], frozenset(), limit_s=limit_s)


def test_it_gives_what_the_reader_gives() -> None:
    with looking(FakeReader()) as lookup:
        assert asyncio.run(read(lookup)) == FakeReader().read(REFS, KEYS, [1, 2])


def test_the_loop_goes_on_while_it_reads() -> None:
    async def go() -> None:
        reading = asyncio.create_task(read(lookup))
        await asyncio.to_thread(reader.began.acquire)
        assert not reading.done()
        reader.free.set()
        assert (await reading).status["weather"] == ["ok", "missing"]

    with looking(reader := Held()) as lookup:
        asyncio.run(go())


def test_many_wait_for_a_thread_and_all_are_answered() -> None:
    async def go() -> None:
        reading = [asyncio.create_task(read(lookup)) for _ in range(50)]
        await asyncio.to_thread(reader.began.acquire)
        reader.free.set()
        assert {tuple(rows.status["weather"]) for rows in await asyncio.gather(*reading)} == {("ok", "missing")}
        assert reader.most <= 2

    with looking(reader := Held()) as lookup:
        asyncio.run(go())


def test_what_is_late_is_null_and_says_so_and_then_all_are_late_at_once_until_the_store_is_back() -> None:
    async def go() -> None:
        late = without(REFS, 2, "late")
        assert late.columns == {"weather.wind": [None, None], "aircraft.delay": [None, None]}
        assert late.status == {"weather": ["late", "late"], "aircraft": ["late", "late"]}
        assert await asyncio.gather(*(read(lookup, 0.01) for _ in range(20))) == [late] * 20
        assert reader.reads == 2, "those that had no thread were taken back"
        assert [await read(lookup) for _ in range(100)] == [late] * 100, "without waiting: the limit is a minute"
        reader.free.set()
        while (await read(lookup)).status["weather"][0] != "ok":
            await asyncio.sleep(0)
        assert reader.most == 2

    with looking(reader := Held()) as lookup:
        asyncio.run(go())


def test_who_leaves_takes_his_read_along_or_counts_it() -> None:
    async def go() -> None:
        reading = [asyncio.create_task(read(lookup)) for _ in range(5)]
        await asyncio.to_thread(reader.began.acquire)
        await asyncio.to_thread(reader.began.acquire)
        for task in reading:
            task.cancel()
        assert {type(found) for found in await asyncio.gather(*reading, return_exceptions=True)} == {
            asyncio.CancelledError
        }
        assert (await read(lookup)).status["weather"] == ["late", "late"]
        assert reader.reads == 2

    with looking(reader := Held()) as lookup:
        asyncio.run(go())


def test_a_store_that_fails_is_unavailable_and_a_bug_is_not_hidden() -> None:
    class Failing(FakeReader):
        error: Exception = Unavailable("the online store is gone")

        def read(self, *_: Any) -> OnlineRows:
            raise self.error

    async def go() -> None:
        assert await read(lookup) == without(REFS, 2, "unavailable")
        reader.error = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            await read(lookup)

    with looking(reader := Failing()) as lookup:
        asyncio.run(go())
