"""Who waits for slots of a pool, in lines: one of each tenant for what is above fairness, in the middle, and idle."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import lt

from mlplat.jobs.job import Job
from mlplat.jobs.policy import LAST
from mlplat.jobs.room import MOST, Nodes, Shape
from mlplat.jobs.shares import Quota, Shares, Standing

Places = dict[int, "tuple[Line, list[Group]]"]


@dataclass(slots=True, eq=False)
class Kind:
    """What is the same for all jobs of one tenant that ask for the same bundles and can be stopped, or cannot. `share` is what
    one bundle is of the pool. As many as `no_right` have no right to slots of others: nor has what comes later and asks for as
    much, since its priority is no higher. `places`: where groups of its tenant go, by their priority."""

    shape: Shape | None
    share: float
    preemptible: bool
    quota: Quota
    places: Places
    no_right: int = MOST

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

    def order(self) -> tuple[int, int, str]:
        """Its place among those of its tenant."""
        return -self.head.priority, self.head.submitted_us, self.head.id


@dataclass(slots=True, eq=False)
class Line:
    """`passed`: its first had no right to slots; what waits behind that has none by the quota of its tenant."""

    tier: int
    stand: Standing
    groups: list[Group] = field(default_factory=list)
    passed: bool = False

    def next(self) -> None:
        """The first group has one less; it may have to go behind another."""
        groups, group = self.groups, self.groups[0]
        group.at += 1
        if group.at == len(group.jobs):
            del groups[0]
            return
        group.head = group.jobs[group.at]
        order = group.order()
        at = bisect.bisect_left(groups, order, 1, key=Group.order)
        if at > 1:
            del groups[0]
            groups.insert(at - 1, group)


def lines(waiting: Iterable[Sequence[Job]], nodes: Nodes, shares: Shares) -> list[Line]:
    """Those of groups of jobs that are alike; and from now on it is known what the fair shares are."""
    kinds: dict[str, Kind] = {}
    tenants: dict[str, _Tenant] = {}
    for jobs in waiting:
        job = jobs[0]
        if (kind := kinds.get(job.kind)) is None:
            if (tenant := tenants.get(job.tenant)) is None:
                tenant = tenants[job.tenant] = _Tenant(shares, shares.of(job.tenant))
            kind = kinds[job.kind] = Kind(
                nodes.shape(job), shares.dominant(job, 1), job.preemptible, shares.quota(job), tenant.places
            )
        line, groups = kind.places.get(job.priority) or tenants[job.tenant].place(job)
        groups.append(Group(jobs, job, kind, job.least))
        if line.tier > LAST:
            line.stand.asks += kind.share * job.count * len(jobs)
    shares.divide()
    for tenant in tenants.values():
        for _, (line, groups) in sorted(tenant.places.items(), reverse=True):
            when = [group.head.submitted_us for group in groups]
            if not all(map(lt, when, when[1:])):  # as they are submitted, they come
                groups.sort(key=Group.order)
            line.groups += groups
    return [line for tenant in tenants.values() for line in tenant.lines.values()]


@dataclass(slots=True, eq=False)
class _Tenant:
    """Its lines by tier, and where its groups go by their priority."""

    shares: Shares
    stand: Standing
    lines: dict[int, Line] = field(default_factory=dict)
    places: Places = field(default_factory=dict)

    def place(self, job: Job) -> tuple[Line, list[Group]]:
        tier = self.shares.policy.tier(job)
        if (line := self.lines.get(tier)) is None:
            line = self.lines[tier] = Line(tier, self.stand)
            if tier > LAST:
                self.shares.ask(self.stand)
        found = self.places[job.priority] = line, []
        return found
