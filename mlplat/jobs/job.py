"""What waits, what runs, and for whom: the values that a plan is made of."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlplat.errors import InvalidInput

PRIORITIES: Mapping[str, int] = {"production": 300, "normal": 200, "explore": 100, "idle": 0}
IDLE = PRIORITIES["idle"]

Amounts = Mapping[str, float]
"""By resource name, as Ray writes them: "CPU", "GPU", "FPGA"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who shares: a person, a team, a project.

    Where all want more than there is, tenants get shares of each pool in proportion to their weights. `quota` is what a tenant
    gets before anybody gets more than theirs, by pool: {"default": {"GPU": 4}} counts for what asks for a GPU, whatever else
    that has. `limit` is what it never exceeds, by pool (default: the pool).
    """

    name: str
    weight: float = 1.0
    quota: Mapping[str, Amounts] = field(default_factory=dict)
    limit: Mapping[str, Amounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InvalidInput(f"tenant {self.name!r}: weight {self.weight:g} must be above 0")
        for word, amounts in (("quota", self.quota), ("limit", self.limit)):
            for pool, given in amounts.items():
                for resource, amount in given.items():
                    if amount < 0:
                        raise InvalidInput(f"tenant {self.name!r}: {word} {amount:g} {resource} of {pool!r} is below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    id: str
    total: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Machines that are shared. A node is in one pool."""

    name: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A gang: from `least` to `count` bundles of `each`, all at once or not at all, on nodes that have the `labels`.

    `preemptible`: it can be stopped and goes on later where it was; before `min_run_s` seconds that happens only for what has
    a right that does not wait (`plan`). `group` is the same for jobs between which only their ids and times differ, and `kind`
    for those of one tenant that ask for the same bundles and can be stopped, or cannot: short names for what plans look up often.
    `data` are the bytes that it reads, by the place where they are (`mlplat.jobs.egress`).
    """

    id: str
    tenant: str
    pool: str
    submitted_us: int
    each: tuple[tuple[str, float], ...]
    count: int = 1
    least: int = 1
    labels: tuple[tuple[str, str], ...] = ()
    priority: int = PRIORITIES["normal"]
    preemptible: bool = True
    min_run_s: float = 60.0
    data: tuple[tuple[str, int], ...] = ()
    group: str = field(init=False, compare=False)
    kind: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.count or not self.each or any(amount <= 0 for _, amount in self.each):
            raise InvalidInput(f"job {self.id!r} asks for nothing: {self.least} to {self.count} of {dict(self.each)}")
        if any(size < 0 for _, size in self.data):
            raise InvalidInput(f"job {self.id!r} reads less than nothing: {dict(self.data)} bytes")
        kind = repr((self.tenant, self.each, self.labels, self.preemptible))
        group = repr((self.pool, self.priority, self.least, self.count, self.min_run_s)) + kind
        if self.data:
            group += repr(self.data)
        object.__setattr__(self, "kind", sys.intern(kind))  # one string for all: it is found without comparing letters
        object.__setattr__(self, "group", sys.intern(group))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Slots that a job holds: bundles by node. `draining`: it was asked to stop, and holds them until it has. `backfill`: it was
    given them while somebody else waits for them, who may have them back at any moment."""

    job: Job
    placed: tuple[tuple[str, int], ...]
    started_us: int
    draining: bool = False
    backfill: bool = False

    @property
    def size(self) -> int:
        if len(self.placed) == 1:
            return self.placed[0][1]
        return sum(count for _, count in self.placed)
