from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.serve.flight import Flights

A, B, C = b"a", b"b", b"c"


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


async def settle() -> None:
    """Until nobody can go on without the test: more turns of the loop than any step here takes."""
    for _ in range(20):
        await asyncio.sleep(0)


class Requests:
    """Requests for keys whose computations end as the test says, and a record of who computed what."""

    def __init__(self) -> None:
        self.flights: Flights[str] = Flights()
        self.computing: dict[str, asyncio.Future[None]] = {}
        self.computed: list[tuple[str, tuple[bytes, ...]]] = []
        self.now: list[bytes] = []

    def ask(self, name: str, *keys: bytes) -> asyncio.Task[list[str]]:
        return asyncio.create_task(self.flights.values(keys, self._compute(name, keys)))

    def end(self, name: str, error: Exception | None = None) -> None:
        future = self.computing.pop(name)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def _compute(self, name: str, keys: Sequence[bytes]) -> Callable[[list[int]], Awaitable[list[str]]]:
        async def compute(positions: list[int]) -> list[str]:
            wanted = [keys[position] for position in positions]
            assert len({*wanted, *self.now}) == len(wanted) + len(self.now), "a key is computed twice at once"
            self.computed.append((name, tuple(wanted)))
            self.now += wanted
            self.computing[name] = asyncio.get_running_loop().create_future()
            try:
                await self.computing[name]
            finally:
                self.computing.pop(name, None)
                self.now = [key for key in self.now if key not in wanted]
            return [f"{key.decode()} of {name}" for key in wanted]

        return compute


def test_one_computes_and_all_get_its_value() -> None:
    async def test() -> None:
        requests = Requests()
        tasks = [requests.ask(name, A) for name in ("first", "second", "third")]
        await settle()
        requests.end("first")
        assert await asyncio.gather(*tasks) == [["a of first"]] * 3
        assert requests.computed == [("first", (A,))]
        assert len(requests.flights) == 0

    run(test)


def test_a_request_computes_once_what_nobody_computes_and_waits_for_the_rest() -> None:
    async def test() -> None:
        requests = Requests()
        first = requests.ask("first", A)
        await settle()
        second = requests.ask("second", C, A, B, C)
        await settle()
        assert requests.computed[1] == ("second", (C, B))
        requests.end("second")
        await settle()
        assert not second.done()
        requests.end("first")
        assert await second == ["c of second", "a of first", "b of second", "c of second"]
        await first

    run(test)


def test_without_keys_nothing_is_computed() -> None:
    async def test() -> None:
        assert await Requests().ask("first") == []

    run(test)


def test_requests_that_wait_for_each_other_both_end() -> None:
    async def test() -> None:
        requests = Requests()
        holders = [requests.ask("of a", A), requests.ask("of b", B)]
        await settle()
        crossing = [requests.ask("one", A, B), requests.ask("other", B, A)]
        await settle()
        for holder in holders:
            holder.cancel()  # now each of the two could take one key and wait for the other's
        await settle()
        for name in list(requests.computing):
            requests.end(name)
        one, other = await asyncio.gather(*crossing)
        assert one == other[::-1]
        assert len(requests.flights) == 0

    run(test)


def test_when_who_computes_leaves_the_next_computes() -> None:
    async def test() -> None:
        requests = Requests()
        first, second, third = (requests.ask(name, A) for name in ("first", "second", "third"))
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        assert requests.computed == [("first", (A,)), ("second", (A,))]
        requests.end("second")
        assert [await second, await third] == [["a of second"]] * 2

    run(test)


def test_one_that_waits_and_leaves_changes_nothing_for_the_others() -> None:
    async def test() -> None:
        requests = Requests()
        first, second, third = (requests.ask(name, A) for name in ("first", "second", "third"))
        await settle()
        second.cancel()
        await settle()
        requests.end("first")
        assert [await first, await third] == [["a of first"]] * 2
        assert second.cancelled()

    run(test)


def test_an_error_is_told_to_all_that_wait_for_these_keys_and_is_not_kept() -> None:
    async def test() -> None:
        requests = Requests()
        tasks = [requests.ask(name, A) for name in ("first", "second", "third")]
        await settle()
        requests.end("first", ValueError("no"))
        assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["no"] * 3
        assert requests.computed == [("first", (A,))]
        again = requests.ask("again", A)
        await settle()
        requests.end("again")
        assert await again == ["a of again"]

    run(test)


def test_an_error_that_may_come_from_a_row_of_another_request_is_not_told() -> None:
    async def test() -> None:
        requests = Requests()
        first = requests.ask("first", A, B)
        await settle()
        second, third = requests.ask("second", A), requests.ask("third", A)
        await settle()
        requests.end("first", ValueError("b is bad"))
        await settle()
        requests.end("second")
        assert [await second, await third] == [["a of second"]] * 2
        with pytest.raises(ValueError, match="b is bad"):
            await first

    run(test)


def test_a_wrong_number_of_values_is_an_error() -> None:
    async def test() -> None:
        async def compute(positions: list[int]) -> list[str]:
            return ["a", "b", "c"]

        flights: Flights[str] = Flights()
        with pytest.raises(ValueError, match="zip"):
            await flights.values([A, B], compute)
        assert len(flights) == 0

    run(test)


@pytest.mark.slow
@given(
    st.lists(st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.tuples(st.sampled_from(["end", "fail", "leave", "join"]), st.integers(0, 100)), max_size=20),
)
def test_in_whatever_order_requests_come_fail_and_leave_each_gets_its_values_or_its_own_end(
    asked: list[list[bytes]], steps: list[tuple[str, int]]
) -> None:
    async def test() -> None:
        requests = Requests()
        waiting = list(enumerate(asked))
        tasks: dict[str, asyncio.Task[list[str]]] = {}
        left, failed = set(), set()

        async def join() -> None:
            number, keys = waiting.pop(0)
            tasks[str(number)] = requests.ask(str(number), *keys)
            await settle()

        for step, choice in steps:
            computing = sorted(requests.computing)
            undone = sorted(name for name, task in tasks.items() if not task.done())
            if step == "join" and waiting:
                await join()
            elif step == "leave" and undone:
                left.add(undone[choice % len(undone)])
                tasks[undone[choice % len(undone)]].cancel()
            elif step in ("end", "fail") and computing:
                name = computing[choice % len(computing)]
                failed |= {name} if step == "fail" else set()
                requests.end(name, ValueError(name) if step == "fail" else None)
            await settle()
        while waiting:
            await join()
        while requests.computing:
            requests.end(min(requests.computing))
            await settle()
        for name, task in tasks.items():
            assert task.done(), "a request waits for nobody"
            if task.cancelled():
                assert name in left
            elif task.exception() is not None:
                assert str(task.exception()) in failed
            else:
                assert [value[:1].encode() for value in task.result()] == asked[int(name)]
        assert len(requests.flights) == 0

    run(test)
