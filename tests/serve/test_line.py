from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import pytest
import uvloop

from mlplat.clock import SystemClock
from mlplat.serve.line import MAX_PAUSE_S, Connection, Line
from tests.serve.shared_server import FakeServer


async def look(server: Connection) -> str:
    await server.get([b"k"])
    return "looked"


async def up(line: Line) -> None:
    while not line.up:
        await asyncio.sleep(0)


def test_without_a_connection_nothing_is_called_and_nobody_waits() -> None:
    server = FakeServer()
    server.fault = "refuses"

    async def go() -> None:
        line = Line(server.connect, what="test", pause_s=60.0)
        assert await line.call(look, limit_s=60.0) is None
        running = asyncio.create_task(line.run())
        while not line.failures:
            await asyncio.sleep(0)
        assert await line.call(look, limit_s=60.0) is None
        running.cancel()

    asyncio.run(go())
    assert (server.looks, server.connected) == ([], 0)


@pytest.mark.parametrize("fault", ["refuses", "silent"])
def test_after_a_failure_there_is_another_connection_as_soon_as_the_server_lets_it(fault: str) -> None:
    server = FakeServer()

    async def go() -> None:
        line = Line(server.connect, what="test", pause_s=0.001)
        running = asyncio.create_task(line.run())
        await up(line)
        assert await line.call(look, limit_s=60.0) == "looked"
        server.fault = fault
        assert await line.call(look, limit_s=0.001) is None
        assert not line.up
        server.fault = ""
        await up(line)
        assert await line.call(look, limit_s=60.0) == "looked"
        assert line.failures == 1
        running.cancel()
        await asyncio.wait({running})
        assert not line.up

    asyncio.run(go())
    assert (server.connected, server.closed) == (2, 2)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_an_answer_that_is_there_when_the_time_is_over_is_taken_however_busy_the_loop(run: Callable[..., None]) -> None:
    """What hangs is late all the same."""
    theirs, ours = socket.socketpair()
    clock = SystemClock()

    def busy() -> None:
        began_s = clock.elapsed_s()
        theirs.send(b"answer")
        while clock.elapsed_s() < began_s + 0.02:
            pass

    async def go() -> None:
        reader, writer = await asyncio.open_connection(sock=ours)

        async def asked(server: Connection) -> bytes:
            asyncio.get_running_loop().call_soon(busy)
            return await reader.readexactly(6)

        async def hung(server: Connection) -> bytes:
            return await reader.readexactly(6)

        line = Line(FakeServer().connect, what="test", pause_s=60.0)
        running = asyncio.create_task(line.run())
        await up(line)
        for _ in range(3):
            assert await line.call(asked, limit_s=0.005) == b"answer"
        began_s = clock.elapsed_s()
        assert await line.call(hung, limit_s=0.005) is None
        assert 0.004 < clock.elapsed_s() - began_s < 5.0
        running.cancel()
        writer.close()
        await writer.wait_closed()

    run(go())
    theirs.close()


def test_several_calls_of_one_connection_that_fails_are_one_failure() -> None:
    server = FakeServer()

    async def go() -> None:
        line = Line(server.connect, what="test", pause_s=60.0)
        running = asyncio.create_task(line.run())
        await up(line)
        server.fault = "refuses"
        assert await asyncio.gather(*(line.call(look, limit_s=60.0) for _ in range(5))) == [None] * 5
        assert line.failures == 1
        running.cancel()

    asyncio.run(go())


def test_pauses_double_up_to_their_bound_however_long_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    server, pauses = FakeServer(), list[float]()
    server.fault = "refuses"
    sleep = asyncio.sleep

    async def at_once(delay_s: float) -> None:
        if delay_s:
            pauses.append(delay_s)
        await sleep(0)

    async def go() -> None:
        line = Line(server.connect, what="test", pause_s=0.1)
        running = asyncio.create_task(line.run())
        while len(pauses) < 2_000:
            await sleep(0)
        server.fault = ""
        await up(line)
        assert await line.call(look, limit_s=60.0) == "looked"
        server.fault = "refuses"
        seen = len(pauses)
        assert await line.call(look, limit_s=60.0) is None
        while len(pauses) == seen:
            await sleep(0)
        assert pauses[seen] == 0.1
        running.cancel()

    monkeypatch.setattr(asyncio, "sleep", at_once)
    asyncio.run(go())
    assert pauses[:10] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, MAX_PAUSE_S]
    assert set(pauses[10:2_000]) == {MAX_PAUSE_S}


def test_the_log_says_the_kind_of_a_failure_once_in_a_while_and_not_what_it_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = FakeServer()
    server.fault = "refuses"

    async def go() -> None:
        line = Line(server.connect, what="reading", pause_s=0.0)
        running = asyncio.create_task(line.run())
        while line.failures < 50:
            await asyncio.sleep(0)
        running.cancel()

    with caplog.at_level(logging.WARNING):
        asyncio.run(go())
    assert caplog.messages == ["reading: the server fails (ConnectionError), so it goes on without"]
