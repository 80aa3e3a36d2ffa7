"""Calls of many rows: nobody waits for a timer, gets another's answer, or falls with another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import Unavailable
from mlplat.serve.backbone import Coalesced, Columns, Outputs


class Server:
    """Doubles x when it is let; refuses 13; remembers how many rows each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.gate = asyncio.Event()
        self.at_once = self.most_at_once = 0

    async def __call__(self, columns: Columns, rows: int) -> Outputs:
        self.calls.append(rows)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if 13 in columns["x"]:
                raise ValueError("no 13")
            return {"y": [2 * x for x in columns["x"]]}
        finally:
            self.at_once -= 1


async def turns(number: int = 10) -> None:
    """Everybody who can go on does."""
    for _ in range(number):
        await asyncio.sleep(0)


def run(test: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        await test(Server())
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(go())


def asked(backbone: Coalesced, *values: int) -> asyncio.Task[Outputs]:
    return asyncio.create_task(backbone.predict({"x": list(values)}, len(values)))  # type: ignore[arg-type]


def test_what_comes_during_a_call_is_the_next_call() -> None:
    async def test(server: Server) -> None:
        backbone = Coalesced(server)
        first = asked(backbone, 1)
        await turns()
        later = [asked(backbone, i, 100 + i) for i in range(5)]
        await turns()
        assert server.calls == [1]
        server.gate.set()
        assert await first == {"y": [2]}
        assert [(await one)["y"] for one in later] == [[2 * i, 200 + 2 * i] for i in range(5)]
        assert server.calls == [1, 10]
        assert server.most_at_once == 1

    run(test)


def test_as_many_calls_go_on_at_once_as_there_are_replicas_and_none_is_too_large() -> None:
    async def test(server: Server) -> None:
        backbone = Coalesced(server, calls=2, max_rows=4)
        ones = [asked(backbone, i) for i in range(10)]
        large = asked(backbone, *range(9))
        await turns()
        server.gate.set()
        await asyncio.gather(*ones, large)
        assert server.most_at_once == 2
        assert max(server.calls) == 9
        assert max(rows for rows in server.calls if rows != 9) <= 4
        assert sum(server.calls) == 19

    run(test)


def test_a_caller_that_leaves_takes_nobody_with_it() -> None:
    async def test(server: Server) -> None:
        backbone = Coalesced(server)
        first = asked(backbone, 1)
        await turns()
        leaves, stays, also = asked(backbone, 2), asked(backbone, 3), asked(backbone, 4)
        await turns()
        first.cancel()  # on its way
        leaves.cancel()  # waiting
        await turns()
        server.gate.set()
        assert (await stays, await also) == ({"y": [6]}, {"y": [8]})
        assert server.calls == [1, 2]

    run(test)


def test_a_row_that_cannot_be_answered_fails_its_request_alone() -> None:
    async def test(server: Server) -> None:
        backbone = Coalesced(server)
        first = asked(backbone, 1)
        await turns()
        good, bad, fine = asked(backbone, 2), asked(backbone, 13, 4), asked(backbone, 5)
        server.gate.set()
        assert (await first, await good, await fine) == ({"y": [2]}, {"y": [4]}, {"y": [10]})
        with pytest.raises(ValueError, match="no 13"):
            await bad

    run(test)


def test_what_is_too_much_is_refused_and_what_waits_at_the_end_is_answered() -> None:
    async def test(server: Server) -> None:
        backbone = Coalesced(server, max_waiting=3)
        first = asked(backbone, 0)
        await turns()
        ones = [asked(backbone, i) for i in range(3)]
        await turns()
        with pytest.raises(Unavailable, match="try again"):
            await backbone.predict({"x": [4]}, 1)
        closing = asyncio.create_task(backbone.close())
        await turns()
        with pytest.raises(Unavailable):
            await backbone.predict({"x": [4]}, 1)
        server.gate.set()
        await closing
        assert [(await one)["y"] for one in (first, *ones)] == [[0], [0], [2], [4]]

    run(test)


def test_calls_at_once_may_be_changed_and_nothing_is_left_behind() -> None:
    async def test(server: Server) -> None:
        backbone = Coalesced(server, calls=4, max_rows=1)
        first = [asked(backbone, i) for i in range(8)]
        await turns()
        assert server.at_once == 4
        backbone.calls = 1
        server.gate.set()
        assert [(await one)["y"] for one in first] == [[2 * i] for i in range(8)]
        server.gate.clear()
        more = [asked(backbone, i) for i in range(4)]
        await turns()
        assert server.at_once == 1
        backbone.calls = 2
        more.append(asked(backbone, 4))
        await turns()
        assert server.at_once == 2
        server.gate.set()
        assert [(await one)["y"] for one in more] == [[2 * i] for i in range(5)]

    run(test)


class Stepping:
    """Each look at it is `step_s` later."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now_s = step_s, 0.0

    def now_us(self) -> int:
        return int(self.now_s * 1e6)

    def elapsed_s(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_under_an_objective_calls_shrink_and_what_would_be_late_is_refused() -> None:
    async def test(server: Server) -> None:
        server.gate.set()
        backbone = Coalesced(server)
        backbone.aim(0.05, Stepping(0.04))  # every call takes 40 ms, and may take 25
        await asyncio.gather(*(asked(backbone, 100 + i) for i in range(100)))
        assert server.calls[0] == 32
        assert server.calls[-1] == 1
        server.gate.clear()
        asked_first = asked(backbone, 0)
        await turns()
        large = asked(backbone, *range(100, 150))  # alone in the queue: it may wait
        await turns()
        with pytest.raises(Unavailable, match="within its latency objective"):
            await backbone.predict({"x": [1]}, 1)
        backbone.aim(None, Stepping(0.04))
        welcome = [asked(backbone, 100 + i) for i in range(100)]
        await turns()
        server.gate.set()
        await asyncio.gather(asked_first, large, *welcome)
        assert server.calls[-1] > 32

    run(test)


def test_an_answer_of_another_number_of_rows_is_no_answer() -> None:
    async def short(columns: Columns, rows: int) -> Outputs:
        return {"y": [1] * (rows - 1)}

    async def test(server: Server) -> None:
        with pytest.raises(Unavailable, match="another number"):
            await Coalesced(short).predict({"x": [1, 2]}, 2)

    run(test)


@pytest.mark.slow
@given(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5), min_size=1, max_size=20),
    st.integers(1, 3),
    st.integers(1, 8),
)
def test_every_answer_is_that_of_its_row_alone(requests: list[list[int]], calls: int, max_rows: int) -> None:
    async def double(columns: Columns, rows: int) -> Outputs:
        await asyncio.sleep(0)
        return {"y": [2 * x for x in columns["x"]]}

    async def go() -> None:
        backbone = Coalesced(double, calls=calls, max_rows=max_rows)
        waits: list[Awaitable[Outputs]] = [backbone.predict({"x": xs}, len(xs)) for xs in requests]
        assert [found["y"] for found in await asyncio.gather(*waits)] == [[2 * x for x in xs] for xs in requests]

    asyncio.run(go())
