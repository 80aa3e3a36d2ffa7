"""A cloud that is made up: machines are entries of a dict, and whatever can go wrong goes wrong when it is told to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlplat.cluster.site import NoCapacity, Seen, Unknown
from mlplat.errors import Unavailable

Fault = Literal["", "none", "fewer", "throttled", "lost", "lost, made"]
"""What becomes of a `create`: nothing is there, fewer are made, the call is refused, or no answer comes and machines were made or
were not."""


@dataclass(slots=True, kw_only=True)
class Made:
    """A machine. `hidden`: it is not listed yet."""

    node: Mapping[str, Any]
    tags: dict[str, str]
    ended: bool = False
    hidden: bool = False


@dataclass(slots=True)
class MadeUpCloud:
    """A `Site`. `capacity` is how many machines there may be at a time, by the "zone" of a node (default: any number). `faults`
    are of the next calls of `create`, `away` says whether it answers at all, and `hook` is called before and after each thing
    that it does."""

    name: str = "cloud"
    capacity: dict[str, int] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    away: bool = False
    hides: bool = False
    hook: Callable[[str], None] = lambda where: None
    made: dict[str, Made] = field(default_factory=dict)
    calls: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def machines(self) -> Mapping[str, Seen]:
        self._answer()
        with self._lock:
            return {
                name: Seen(tags=dict(made.tags))
                for name, made in self.made.items()
                if not made.ended and not made.hidden
            }

    def create(self, node: Mapping[str, Any], tags: Mapping[str, str], count: int) -> Sequence[str]:
        self.calls += 1
        self._answer()
        self.hook("before create")
        fault = self.faults.popleft() if self.faults else ""
        if fault == "throttled":
            raise Unavailable(f"{self.name}: too many calls; try again later")
        if fault == "lost":
            raise Unknown(f"{self.name} did not answer")
        with self._lock:
            zone = str(node.get("zone", ""))
            there = sum(str(made.node.get("zone", "")) == zone and not made.ended for made in self.made.values())
            room = self.capacity[zone] - there if zone in self.capacity else count
            wanted = min(count, room, max(1, count // 2) if fault == "fewer" else count)
            if fault == "none" or wanted <= 0:
                raise NoCapacity(f"{self.name}: no machines in zone {zone!r}")
            names = [f"{self.name}-{len(self.made) + i}" for i in range(wanted)]
            self.made.update({name: Made(node=node, tags=dict(tags), hidden=self.hides) for name in names})
        self.hook("after create")
        if fault == "lost, made":
            raise Unknown(f"{self.name} did not answer")
        return names

    def terminate(self, names: Sequence[str]) -> None:
        self._answer()
        self.hook("before terminate")
        with self._lock:
            for name in names:
                if name in self.made:
                    self.made[name].ended = True
        self.hook("after terminate")

    def address(self, name: str) -> str:
        return name

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        self._answer()
        with self._lock:
            self.made[name].tags.update(tags)

    def lose(self, name: str) -> None:
        """As a cloud takes a spot machine away."""
        with self._lock:
            self.made[name].ended = True

    def show(self) -> None:
        """What was hidden is listed now."""
        with self._lock:
            for made in self.made.values():
                made.hidden = False

    def there(self) -> set[str]:
        with self._lock:
            return {name for name, made in self.made.items() if not made.ended}

    def _answer(self) -> None:
        if self.away:
            raise Unavailable(f"{self.name} does not answer")
