"""A connection to a server that one can do without: used while it works, made again in the background when it does not.

Who calls waits for no connection, and for no answer longer than it says; after a failure nobody waits at all until there is
a new connection. These are tried ever more seldom while failures follow each other.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

CONNECT_S = 2.0
PAUSE_S = 0.1
"""After the first failure; doubled with each that follows, up to MAX_PAUSE_S."""
MAX_PAUSE_S = 30.0
SAY_EVERY_S = 60.0
ROUNDS = 4
"""Of the loop, from an answer on the wire to who waits for it."""
_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Connection(Protocol):
    """To a server that keeps bytes under keys for a time. A call may raise anything, never answer, and be cancelled: then no
    other follows but `close`."""

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """In the order of the keys."""

    async def put(self, pairs: Sequence[tuple[bytes, bytes]], ttl_s: int) -> None: ...

    async def close(self) -> None: ...


Connect = Callable[[], Awaitable[Connection]]
"""A connection that the next call need not wait for. Raises whatever keeps it from being one."""


class Line:
    """For one event loop. `what` it is for is said in the log; `failures` are counted since the start."""

    def __init__(self, connect: Connect, *, what: str, pause_s: float = PAUSE_S) -> None:
        self._connect, self._what, self._pause_s = connect, what, pause_s
        self._connection: Connection | None = None
        self._wait_s, self._said_s = 0.0, -math.inf
        self._broken = asyncio.Event()
        self.failures = 0

    @property
    def up(self) -> bool:
        """Whether a call would be made now."""
        return self._connection is not None

    async def call(self, work: Callable[[Connection], Awaitable[Result]], *, limit_s: float) -> Result | None:
        """What the work gives. None, in no more than `limit_s`, while there is no connection, and if it fails or is late."""
        connection = self._connection
        if connection is None:
            return None
        try:
            result = await _in_time(work(connection), limit_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody needs the server
            if connection is self._connection:
                self._failed(error)
                self._broken.set()
            return None
        self._wait_s = 0.0
        return result

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._wait_s)
            try:
                async with asyncio.timeout(CONNECT_S):
                    connection = await self._connect()
            except Exception as error:  # noqa: BLE001 - it is tried again
                self._failed(error)
                continue
            await self._used(connection)

    async def _used(self, connection: Connection) -> None:
        """Until it fails. It is closed then: an answer that comes late is nobody's."""
        self._broken.clear()
        self._connection = connection
        try:
            await self._broken.wait()
        finally:
            self._connection = None
            with suppress(Exception):  # it does not work anyway
                async with asyncio.timeout(CONNECT_S):
                    await connection.close()

    def _failed(self, error: Exception) -> None:
        self._connection = None
        self.failures += 1
        self._wait_s = min(max(2 * self._wait_s, self._pause_s), MAX_PAUSE_S)
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._said_s + SAY_EVERY_S:  # its kind alone: what it says may hold a secret
            self._said_s = now_s
            _log.warning("%s: the server fails (%s), so it goes on without", self._what, type(error).__name__)


async def _in_time(work: Awaitable[Result], limit_s: float) -> Result:
    """`TimeoutError` if there is no answer when the time is over. One that has come by then is taken, although the loop has not
    got round to it: one that has much to do would find every server late."""
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle
    async with asyncio.timeout(None) as limit:

        def over(rounds: int) -> None:
            nonlocal timer
            if rounds:
                timer = loop.call_soon(over, rounds - 1)
            else:
                limit.reschedule(loop.time())

        timer = loop.call_later(limit_s, over, ROUNDS)
        try:
            return await work
        finally:
            timer.cancel()
