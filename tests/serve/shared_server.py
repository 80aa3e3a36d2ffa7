"""A server of shared answers in memory, which fails as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mlplat.serve.line import Connect
from mlplat.serve.shared import SharedAnswers


class FakeServer:
    """`fault`: "" for none; "refuses" and "silent" of every call; "short" and "crossed" of answers; "full" of writes."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.fault = ""
        self.looks: list[int] = []
        self.ttls_s: set[int] = set()
        self.connected = self.closed = 0

    async def connect(self) -> FakeServer:
        await self._may_fail()
        self.connected += 1
        return self

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        self.looks.append(len(keys))
        await self._may_fail()
        found = [self.held.get(key) for key in keys]
        if self.fault == "crossed":
            every = list(self.held.values()) or [b""]
            return [every[i % len(every)] for i in range(len(keys))]
        return found[:-1] if self.fault == "short" else found

    async def put(self, pairs: Sequence[tuple[bytes, bytes]], ttl_s: int) -> None:
        await self._may_fail()
        if self.fault == "full":
            raise OSError("used memory > 'maxmemory'")
        self.ttls_s.add(ttl_s)
        self.held |= dict(pairs)

    async def close(self) -> None:
        self.closed += 1

    async def _may_fail(self) -> None:
        await asyncio.sleep(0)
        if self.fault == "refuses":
            raise ConnectionError("secret")
        while self.fault == "silent":
            await asyncio.sleep(0)


@asynccontextmanager
async def sharing(connect: Connect, *, look_s: float = 5.0, pause_s: float = 0.001) -> AsyncIterator[SharedAnswers]:
    """Answers that are shared; once each connection is there, or has failed."""
    answers = SharedAnswers(connect, look_s=look_s, pause_s=pause_s)
    running = asyncio.create_task(answers.run())
    while not all(line.up or line.failures for line in (answers._reads, answers._writes)):
        await asyncio.sleep(0)
    try:
        yield answers
    finally:
        running.cancel()
        await asyncio.wait({running})


async def written(answers: SharedAnswers) -> None:
    """Returns when nothing waits to be written."""
    await answers._waiting.join()


async def connected(answers: SharedAnswers) -> None:
    """Returns when the server would be read and written."""
    while not (answers._reads.up and answers._writes.up):
        await asyncio.sleep(0)
