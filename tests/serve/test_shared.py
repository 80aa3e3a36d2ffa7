"""Answers that are shared: always the model's, whatever the server does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.clock import SystemClock
from mlplat.serve.backbone import Fused
from mlplat.serve.cache import Cache
from mlplat.serve.remembered import Remembered, Values
from mlplat.serve.shared import MAX_ROWS, MAX_WRITES, TTL_S, SharedAnswers
from tests.serve.shared_server import FakeServer, connected, sharing, written
from tests.serve.test_remembered import Here, Named

ROWS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([None, 1, 1.0, "1", ""])), min_size=1, max_size=5)


def known_to(model: Named, answers: SharedAnswers | None, *, name: str = "late") -> Remembered:
    """As an endpoint that has just started."""
    cache: Cache[Values] = Cache(max_bytes=1 << 20, clock=SystemClock())
    share = None if answers is None else answers.of(name)
    return Remembered(model, cache, digest=model.name, outputs=["who", "what"], shared=share)


async def ask(known: Remembered, *values: Any) -> tuple[list[str], list[bool]]:
    outputs, hits = await known.predict({"x": values}, len(values))
    return outputs["what"], hits


def test_what_one_endpoint_answered_another_one_knows() -> None:
    server, model, other = FakeServer(), Named("a"), Named("a")

    async def go() -> None:
        async with sharing(server.connect) as one, sharing(server.connect) as two:
            assert await ask(known_to(model, one), 1, 2) == (["(1,)", "(2,)"], [False, False])
            await written(one)
            later = known_to(other, two)
            assert await ask(later, 2, 3, 1) == (["(2,)", "(3,)", "(1,)"], [True, False, True])
            assert other.rows == [1]
            looks = len(server.looks)
            assert await ask(later, 1, 2) == (["(1,)", "(2,)"], [True, True])
            assert len(server.looks) == looks, "what is known here, nobody is asked for"
            assert two.of("late").rows == {"hit": 2, "miss": 1}
            await written(two)
            assert (one.written["written"], two.written["written"]) == (2, 1), (
                "what was found there is not written again"
            )

    asyncio.run(go())
    assert server.ttls_s == {TTL_S}


def test_misses_that_come_during_a_look_go_together_in_the_next_one() -> None:
    server, model = FakeServer(), Named("a")

    async def go() -> None:
        async with sharing(server.connect) as answers:
            known = known_to(model, answers)
            first = asyncio.create_task(ask(known, 0))
            while not server.looks:
                await asyncio.sleep(0)
            await asyncio.gather(first, *(ask(known, i % 50) for i in range(100)))

    asyncio.run(go())
    assert server.looks == [1, 49]
    assert sum(model.rows) == 50


def test_a_model_in_this_process_asks_nobody() -> None:
    server, model = FakeServer(), Named("a")

    async def go() -> None:
        async with sharing(server.connect) as answers:
            cache: Cache[Values] = Cache(max_bytes=1 << 20, clock=SystemClock())
            here: Any = Here(model)
            known = Remembered(Fused(here), cache, digest="a", outputs=["who", "what"], shared=answers.of("late"))
            assert await ask(known, 1) == (["(1,)"], [False])
            assert await ask(known, 1, 2) == (["(1,)", "(2,)"], [True, False])

    asyncio.run(go())
    assert (server.looks, server.held) == ([], {})


def test_a_row_that_fails_takes_no_answer_of_others_with_it_and_is_not_shared() -> None:
    server = FakeServer()

    async def go() -> None:
        async with sharing(server.connect) as answers:
            await ask(known_to(Named("a"), answers), 1)
            await written(answers)
            failing = Named("a", fails=True)
            failing.calls = 2
            known = known_to(failing, answers)
            with pytest.raises(OSError, match="gone"):
                await ask(known, 1, 2)
            await written(answers)
            assert len(server.held) == 1
            assert await ask(known, 1) == (["(1,)"], [True])

    asyncio.run(go())


@pytest.mark.parametrize("fault", ["refuses", "silent", "short", "crossed"])
def test_while_the_server_fails_the_model_answers(fault: str) -> None:
    server, model = FakeServer(), Named("a")

    async def go() -> None:
        async with sharing(server.connect, look_s=0.001, pause_s=60.0) as answers:
            await ask(known_to(Named("a"), answers), 7, 8)
            await written(answers)
            server.fault = fault
            for i in range(3):
                assert (await ask(known_to(model, answers), i, i + 1))[0] == [f"({i},)", f"({i + 1},)"]
            said = answers.of("late").rows
            assert said == {"miss": 2, "corrupt" if fault == "crossed" else "unasked": 6}

    asyncio.run(go())
    assert sum(model.rows) == 6
    assert len(server.looks) == (4 if fault == "crossed" else 2), "after a failure nobody is asked for a while"


def test_a_server_that_takes_no_writes_is_still_read() -> None:
    server = FakeServer()

    async def go() -> None:
        async with sharing(server.connect, pause_s=60.0) as answers:
            await ask(known_to(Named("a"), answers), 1)
            await written(answers)
            server.fault = "full"
            assert await ask(known_to(Named("a"), answers), 1, 2) == (["(1,)", "(2,)"], [True, False])
            await written(answers)
            assert await ask(known_to(Named("a"), answers), 1, 3) == (["(1,)", "(3,)"], [True, False])
            assert answers.written == {"written": 1, "dropped": 2}

    asyncio.run(go())


def test_what_waits_is_bounded_and_the_rest_is_answered_by_the_model() -> None:
    server = FakeServer()

    async def go() -> None:
        async with sharing(server.connect, look_s=60.0) as answers:
            share = answers.of("late")
            server.fault = "silent"
            first = asyncio.create_task(share.get([b"k" * 16], 1))
            while not server.looks:
                await asyncio.sleep(0)
            waiting = asyncio.create_task(share.get([bytes([i % 256, i // 256] * 8) for i in range(MAX_ROWS)], 1))
            await asyncio.sleep(0)
            assert await share.get([b"o" * 16], 1) == {}
            assert share.rows == {"unasked": 1}
            for _ in range(2):
                share.put({bytes([i % 256, i // 256] * 8): (1,) for i in range(MAX_WRITES)})
            assert answers.written == {"dropped": MAX_WRITES}
            first.cancel()
            waiting.cancel()

    asyncio.run(go())


def test_a_caller_that_leaves_takes_nobody_s_look_with_it() -> None:
    server, model = FakeServer(), Named("a")

    async def go() -> None:
        async with sharing(server.connect) as answers:
            known = known_to(model, answers)
            leaving, staying = (asyncio.create_task(ask(known, 1)) for _ in range(2))
            while not server.looks:
                await asyncio.sleep(0)
            leaving.cancel()
            assert (await staying)[0] == ["(1,)"]

    asyncio.run(go())


def test_an_answer_that_cannot_be_shared_is_answered_all_the_same() -> None:
    server = FakeServer()

    async def go() -> None:
        async with sharing(server.connect) as answers:
            answers.put({b"k" * 16: (b"bytes",), b"l" * 16: (1,)})
            await written(answers)
            assert answers.written == {"written": 1, "dropped": 1}

    asyncio.run(go())
    assert list(server.held) == [b"l" * 16]


FAULTS = ["", "", "", "refuses", "silent", "short", "crossed", "full"]
STEPS = st.one_of(
    st.tuples(st.just("ask"), st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), ROWS), min_size=1, max_size=4)),
    st.tuples(st.just("restart"), st.integers(0, 1)),
    st.tuples(st.just("fault"), st.sampled_from(FAULTS)),
    st.tuples(st.sampled_from(["corrupt", "swap", "expire"]), st.integers(0, 100)),
)


@pytest.mark.slow
@given(st.lists(STEPS, max_size=25), st.booleans())
def test_every_answer_is_that_of_its_model_and_row_whatever_becomes_of_the_server(
    steps: list[Any], fails: bool
) -> None:
    """Two endpoints with three models each, asked at once; the server's values are lost, damaged and exchanged."""
    server = FakeServer()

    def begun(answers: SharedAnswers) -> list[Remembered]:
        cache: Cache[Values] = Cache(max_bytes=2_000, clock=SystemClock())
        return [
            Remembered(Named(n, fails=fails), cache, digest=n, outputs=["who", "what"], shared=answers.of("late"))
            for n in "abc"
        ]

    async def one(known: Remembered, who: str, rows: list[Any]) -> None:
        columns = {"x": [row[0] for row in rows], "y": [row[1] for row in rows]}
        try:
            outputs, hits = await known.predict(columns, len(rows))
        except OSError:
            assert fails
            return
        assert outputs == {"who": [who] * len(rows), "what": [repr(row) for row in rows]}
        assert len(hits) == len(rows)

    def harm(how: str, at: int) -> None:
        keys = list(server.held)
        if keys:
            key, other = keys[at % len(keys)], keys[(at + 1) % len(keys)]
            if how == "expire":
                del server.held[key]
            elif how == "swap":
                server.held[key], server.held[other] = server.held[other], server.held[key]
            else:
                blob = server.held[key]
                server.held[key] = blob[: at % len(blob)] + bytes([at]) + blob[at % len(blob) + 1 :]

    async def go() -> None:
        async with sharing(server.connect, look_s=0.0005) as left, sharing(server.connect, look_s=0.0005) as right:
            endpoints = [begun(left), begun(right)]
            for what, how in steps:
                if what == "ask":
                    asked = (one(endpoints[which][model], "abc"[model], rows) for which, model, rows in how)
                    await asyncio.gather(*asked)
                elif what == "restart":
                    endpoints[how] = begun((left, right)[how])
                elif what == "fault":
                    server.fault = how
                    if not how:
                        await connected(left)
                        await connected(right)
                else:
                    harm(what, how)

    asyncio.run(go())
