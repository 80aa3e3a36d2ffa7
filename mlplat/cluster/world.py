"""What simulations are made of: a clock that is set, and a site whose machines are names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from mlplat.clock import US_PER_S
from mlplat.cluster.router import TYPE
from mlplat.cluster.site import NoCapacity, Seen


class SetClock:
    """Stands still until it is set."""

    def __init__(self, us: int = 0) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us

    def elapsed_s(self) -> float:
        return self.us / US_PER_S


class Machines:
    """`Site` that makes any number, or as many as `capacity` says for a node now."""

    def __init__(self, name: str, capacity: Callable[[Mapping[str, Any]], int] | None = None) -> None:
        self._name, self._capacity = name, capacity
        self.there: dict[str, dict[str, str]] = {}
        self._number = count()
        self.made: Callable[[Sequence[str], str], None] = lambda names, kind: None

    def machines(self) -> Mapping[str, Seen]:
        return {name: Seen(tags=dict(tags)) for name, tags in self.there.items()}

    def create(self, node: Mapping[str, Any], tags: Mapping[str, str], count: int) -> Sequence[str]:
        room = count if self._capacity is None else min(count, self._capacity(node))
        if room <= 0:
            raise NoCapacity(f"{self._name} has none")
        names = [f"{self._name}-{next(self._number)}" for _ in range(room)]
        self.there |= {name: dict(tags) for name in names}
        self.made(names, tags[TYPE])
        return names

    def terminate(self, names: Sequence[str]) -> None:
        for name in names:
            self.there.pop(name, None)

    def address(self, name: str) -> str:
        return name

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        if name in self.there:
            self.there[name].update(tags)
