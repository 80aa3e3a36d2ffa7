"""Single flight: what several requests miss at the same time is computed by one of them, and the others wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Value = TypeVar("Value")
Compute = Callable[[list[int]], Awaitable[Sequence[Value]]]
"""From positions in the caller's keys to their values, in this order."""


class _Flight(Generic[Value]):
    """Keys that one caller computes together. It has landed with values, with an error, or, if its caller left, with
    neither."""

    __slots__ = ("error", "keys", "landed", "values")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = frozenset(keys)
        self.landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.values: dict[bytes, Value] = {}
        self.error: Exception | None = None


class Flights(Generic[Value]):
    """The keys that are being computed now. For one event loop: not thread-safe. It keeps nothing: that is a cache's work.

    A caller looks into its cache and calls `values` without waiting in between, and its `compute` puts what it computed into
    the cache before it returns: then no key is computed twice because it landed in between.
    """

    def __init__(self) -> None:
        self._flying: dict[bytes, _Flight[Value]] = {}

    async def values(self, keys: Sequence[bytes], compute: Compute[Value]) -> list[Value]:
        """The values of the keys. `compute` is awaited for those that nobody computes yet, once for all of them.

        Callers compute their own keys before they wait for those of others, so none waits for one that waits for it. A caller
        that is cancelled, or whose `compute` fails, takes nobody with it: one of those that waited computes next. An error
        is passed on only to those that asked for every key of that computation; to others it may come from a row that is
        not theirs.
        """
        positions: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            positions.setdefault(key, position)
        found: dict[bytes, Value] = {}
        while missing := [key for key in positions if key not in found]:
            waiting = {key: self._flying[key] for key in missing if key in self._flying}
            own = [key for key in missing if key not in waiting]
            if own:
                found |= await self._fly(own, [positions[key] for key in own], compute)
            if waiting:
                await asyncio.wait({flight.landed for flight in waiting.values()})
            for key, flight in waiting.items():
                if flight.error is not None and flight.keys <= positions.keys():
                    raise flight.error
                if key in flight.values:
                    found[key] = flight.values[key]
        return [found[key] for key in keys]

    def __len__(self) -> int:
        """How many keys are being computed."""
        return len(self._flying)

    async def _fly(self, keys: list[bytes], positions: list[int], compute: Compute[Value]) -> dict[bytes, Value]:
        flight = _Flight[Value](keys)
        self._flying |= dict.fromkeys(keys, flight)
        try:
            flight.values = dict(zip(keys, await compute(positions), strict=True))
        except Exception as error:
            flight.error = error
            raise
        finally:
            for key in keys:
                del self._flying[key]
            flight.landed.set_result(None)
        return flight.values
