"""Who waits for slots of a pool, in lines: one of each tenant for what is above fairness, in the middle, and idle."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, lt

from mlplat.jobs.job import Job
from mlplat.jobs.policy import LAST
from mlplat.jobs.room import MOST, Nodes, Shape
from mlplat.jobs.shares import Quota, Shares, Standing


@dataclass(slots=True, eq=False)
class Kind:
    """What is the same for all jobs of one tenant that ask for the same bundles and can be stopped, or cannot. `share` is what
    one bundle is of the pool. As many as `no_right` have no right to slots of others: nor has what comes later and asks for as
    much, since its priority is no higher. `places`: where its groups go, by their priority."""

    shape: Shape | None
    share: float
    preemptible: bool
    quota: Quota
    no_right: int = MOST
    places: dict[int, tuple[Line, list[Group]]] = field(default_factory=dict)

    def below_quota(self, stand: Standing, count: int) -> bool:
        """Whether its tenant is so with that many bundles too."""
        for at, bound, has in self.quota:
            if stand.held[at] + has * count > bound:
                return False
        return bool(self.quota)


@dataclass(slots=True, eq=False)
class Group:
    """Jobs between which only their ids and times differ, the first first. `head` is the first that still waits."""

    jobs: Sequence[Job]
    head: Job
    kind: Kind
    least: int
    at: int = 0


_SUBMITTED = attrgetter("head.submitted_us", "head.id")


@dataclass(slots=True, eq=False)
class Line:
    """`passed`: its first had no right to slots; what waits behind that has none by the quota of its tenant."""

    tier: int
    stand: Standing
    groups: list[Group] = field(default_factory=list)
    passed: bool = False

    def next(self) -> None:
        """The first group has one less; it may have to go behind another."""
        group = self.groups.pop(0)
        group.at += 1
        if group.at < len(group.jobs):
            group.head = group.jobs[group.at]
            bisect.insort(self.groups, group, key=lambda one: (-one.head.priority, *_SUBMITTED(one)))


def lines(waiting: Iterable[Sequence[Job]], nodes: Nodes, shares: Shares) -> list[Line]:
    """Those of groups of jobs that are alike; and from now on it is known what the fair shares are."""
    kinds: dict[str, Kind] = {}
    found: dict[tuple[int, str], tuple[Line, dict[int, list[Group]]]] = {}
    for jobs in waiting:
        job = jobs[0]
        if (kind := kinds.get(job.kind)) is None:
            kind = kinds[job.kind] = Kind(nodes.shape(job), shares.dominant(job, 1), job.preemptible, shares.quota(job))
        if (place := kind.places.get(job.priority)) is None:
            place = kind.places[job.priority] = _place(job, shares, found)
        line, groups = place
        groups.append(Group(jobs, job, kind, job.least))
        if line.tier > LAST:
            line.stand.asks += kind.share * job.count * len(jobs)
    shares.divide()
    for line, by_priority in found.values():
        for _, groups in sorted(by_priority.items(), reverse=True):
            when = [group.head.submitted_us for group in groups]
            if not all(map(lt, when, when[1:])):  # as they are submitted, they come
                groups.sort(key=_SUBMITTED)
            line.groups += groups
    return [line for line, _ in found.values()]


def _place(
    job: Job, shares: Shares, found: dict[tuple[int, str], tuple[Line, dict[int, list[Group]]]]
) -> tuple[Line, list[Group]]:
    tier = shares.policy.tier(job)
    if (known := found.get((tier, job.tenant))) is None:
        known = found[tier, job.tenant] = Line(tier, shares.of(job.tenant)), {}
        if tier > LAST:
            shares.ask(known[0].stand)
    return known[0], known[1].setdefault(job.priority, [])
