"""What simulations are made of, and what comes of them: work, a clock that is set, a site whose machines are names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from mlplat.clock import US_PER_S
from mlplat.cluster.budget import Bill
from mlplat.cluster.router import TYPE
from mlplat.cluster.site import NoCapacity, Seen
from mlplat.jobs.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A job that takes `work_s` seconds of its least bundles."""

    job: Job
    work_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Seconds: until a bought machine is a node, until a job that is asked to stop has written its checkpoint, until one that
    goes on has read it, and between the checkpoints that it writes in any case. The autoscaler looks every `period_s`."""

    boot_s: float = 180.0
    checkpoint_s: float = 5.0
    restart_s: float = 60.0
    every_s: float = 600.0
    period_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """All machines of a site end at once."""

    site: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """That a job held slots for a time, of own machines or bought ones."""

    job: Job
    bought: bool
    began_us: int
    ended_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """A call that made machines. `free_gpus` is how much was allocatable then on own machines for what they were asked for."""

    at_us: int
    machines: int
    free_gpus: float


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the work: when each job began and ended, where it ran, what was bought and what that cost. `misplaced` is
    how often work was put on bought machines while it fitted on own ones, without leaving those to a larger job. `moved` is how
    often work was stopped, and `lost_s` how much of it had to be done again. `egress` is what it cost to bring data to bought
    machines; it is part of the `cost`."""

    began_us: dict[str, int] = field(default_factory=dict)
    ended_us: dict[str, int] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)
    bought: list[Bought] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)
    misplaced: int = 0
    moved: int = 0
    lost_s: float = 0.0
    egress: float = 0.0
    ticks: int = 0
    until_us: int = 0

    @property
    def gpu_hours(self) -> float:
        """Of bought machines."""
        return sum(bill.gpus * _hours(bill, self.until_us) for bill in self.bills)

    @property
    def cost(self) -> float:
        return sum(bill.price * _hours(bill, self.until_us) for bill in self.bills) + self.egress


def _hours(bill: Bill, until_us: int) -> float:
    return ((until_us if bill.ended_us is None else bill.ended_us) - bill.began_us) / US_PER_S / 3_600


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
