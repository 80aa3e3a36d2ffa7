"""Who gets slots now, who gives slots back, and why the others wait: a pure function of what there is.

The order, in each pool:

1. Priorities at or above `Policy.over_fairness` come before all else, and idle work after all else; fairness decides between the
   priorities in the middle.
2. Who is below the quota of its tenant comes before who borrows.
3. First come tenants that hold no more than their fair share with the job too, by weighted dominant shares (Ghodsi et al., NSDI
   2011), or whose turn it is because they used much less than that lately (`Usage`); then those that hold no more without the
   job; then the others. Of those alike, the one that used least comes first, then the one that holds least.
4. Of one tenant's jobs the highest priority comes first, then the one that was submitted first.

What comes first and does not fit takes slots back from others where it has a right to (`Rights`). Where it has none, the slots
that it waits for are given only to what can be stopped at any moment (backfill), so that a wide job is not passed for ever. A
gang gets all of its slots or none, and nobody gets a slot before the one who had it has given it back.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mlplat.decision import Hold
from mlplat.jobs.job import Job, Lease, Pool, Tenant
from mlplat.jobs.policy import Policy
from mlplat.jobs.rights import Rights
from mlplat.jobs.room import Grid, Nodes, Placed, Shape
from mlplat.jobs.shares import ROUND, Shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`waiting` is in the order of submission. `usage` is what tenants used lately beyond their fair share, in seconds of a
    weighted share (`Usage`), by pool and tenant."""

    pools: Sequence[Pool]
    tenants: Mapping[str, Tenant]
    leases: Sequence[Lease]
    waiting: Sequence[Job]
    usage: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    job: Job
    placed: Placed
    backfill: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    lease: Lease
    by: Job
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`holds` says why jobs wait, by their group. `over` is how much more than their fair share tenants hold then, by pool and
    tenant and by their weight: for `Usage`."""

    admits: tuple[Admit, ...]
    evictions: tuple[Evict, ...]
    holds: Mapping[str, Hold]
    over: Mapping[tuple[str, str], float]


_Rank = tuple[int, bool, int, float, float]


def plan(snapshot: Snapshot, policy: Policy, *, now_us: int) -> Plan:
    groups: dict[str, list[Job]] = {}
    for job in snapshot.waiting:
        groups.setdefault(job.group, []).append(job)
    found = [_Planner(pool, snapshot, policy, groups, now_us) for pool in snapshot.pools]
    for one in found:
        one.run()
    holds = {group: hold for one in found for group, hold in one.holds.items()}
    names = {pool.name for pool in snapshot.pools}
    for group, jobs in groups.items():
        if jobs[0].pool not in names:
            holds[group] = Hold(reason=f"there is no pool {jobs[0].pool!r} now", evidence={"pool": jobs[0].pool})
    return Plan(
        admits=tuple(admit for one in found for admit in one.admits),
        evictions=tuple(evict for one in found for evict in one.evictions),
        holds=holds,
        over={(one.pool, name): one.shares.over(name) for one in found for name in sorted(one.shares.fair)},
    )


@dataclass(slots=True, kw_only=True)
class _Group:
    """Jobs between which only their ids and times differ, the first first."""

    jobs: list[Job]
    at: int = 0

    @property
    def head(self) -> Job:
        return self.jobs[self.at]

    def key(self) -> tuple[int, int, str]:
        """Their order among those of one tenant."""
        job = self.jobs[self.at]
        return -job.priority, job.submitted_us, job.id


class _Planner:
    """One pool. `free` is what nobody holds; `later` is that and what is given back already, less what is promised of it. What is
    admitted fits in both. `wanted` are the slots that the first who cannot have any waits for."""

    def __init__(
        self, pool: Pool, snapshot: Snapshot, policy: Policy, groups: Mapping[str, list[Job]], now_us: int
    ) -> None:
        self.nodes = Nodes(pool.nodes)
        self.pool, self.policy, self.now_us = pool.name, policy, now_us
        self.leases = [lease for lease in snapshot.leases if lease.job.pool == pool.name]
        self.groups = [_Group(jobs=jobs) for jobs in groups.values() if jobs[0].pool == pool.name]
        self.shares = Shares(
            self.nodes,
            self.leases,
            snapshot.tenants,
            policy,
            pool=pool.name,
            usage=snapshot.usage,
            groups=[group.jobs for group in self.groups],
        )
        self.free = self.nodes.total.copy()
        self.later = self.nodes.total.copy()
        for lease in self.leases:
            shape = self._shape(lease.job)
            self.nodes.add(self.free, shape, lease.placed, -1)
            if not lease.draining:
                self.nodes.add(self.later, shape, lease.placed, -1)
        self._both: Grid | None = None
        self.wanted: Grid | None = None
        self.admits: list[Admit] = []
        self.evictions: list[Evict] = []
        self.holds: dict[str, Hold] = {}
        self._evicted: set[str] = set()
        self._no_room: set[tuple[object, ...]] = set()
        self._passed: set[tuple[int, str]] = set()
        self._no_right: dict[tuple[object, ...], int] = {}
        self._queues: dict[tuple[int, str], list[_Group]] = {}

    def run(self) -> None:
        queues = self._queues
        for group in self.groups:
            queues.setdefault((-self.policy.tier(group.head), group.head.tenant), []).append(group)
        heap: list[tuple[_Rank, str]] = []
        for (tier, tenant), own in queues.items():
            own.sort(key=_Group.key)
            heap.append((self._rank(tier, own[0].head), tenant))
        heapq.heapify(heap)
        while heap:
            rank, tenant = heapq.heappop(heap)
            own = queues[rank[0], tenant]
            if (now := self._rank(rank[0], own[0].head)) != rank:  # it holds more than when it was put there
                heapq.heappush(heap, (now, tenant))
                continue
            if self._settle(own[0].head):
                self._next(own)
            else:
                own.pop(0)
                at = next((i for i, group in enumerate(own) if not self._hopeless(group.head)), len(own))
                if at:
                    alike = self._why(own[0].head)
                    self.holds |= {group.head.group: alike for group in own[:at]}
                    del own[:at]
            if own:
                heapq.heappush(heap, (self._rank(rank[0], own[0].head), tenant))

    def _next(self, own: list[_Group]) -> None:
        """The first group has one less; it may have to go behind another of its tenant."""
        group = own.pop(0)
        group.at += 1
        if group.at < len(group.jobs):
            bisect.insort(own, group, key=_Group.key)

    def _hopeless(self, job: Job) -> bool:
        """Known from others of its tenant that ask for the same or less: most of a long queue is."""
        if job.least < self._no_right.get((job.tenant, job.each, job.labels, job.preemptible), job.least + 1):
            return False
        wanted = self.wanted is not None
        lent = (False, True) if wanted and job.preemptible else (False,)
        return all((job.each, job.labels, job.least, backfill, not wanted) in self._no_room for backfill in lent)

    def _rank(self, tier: int, job: Job) -> _Rank:
        shares, tenant = self.shares, job.tenant
        turn = shares.usage(tenant) < -shares.turn(job)
        stands = 0 if turn or shares.below(job) else 1 if shares.over(tenant) <= ROUND else 2
        return tier, not self._guaranteed(job), stands, shares.usage(tenant), shares.weighted(tenant)

    def _guaranteed(self, job: Job) -> bool:
        """Whether the quota of its tenant is for it: what waits behind another of its tenant has no right before that."""
        return (self.policy.tier(job), job.tenant) not in self._passed and self.shares.below_quota(job)

    def _shape(self, job: Job) -> Shape:
        shape = self.nodes.shape(job)
        if shape is None:  # the pool has changed under it
            return Shape(
                takes=np.zeros(len(self.nodes.resources), dtype=np.int64),
                columns=np.zeros(0, dtype=np.int64),
                allowed=np.zeros(len(self.nodes.ids), dtype=bool),
            )
        return shape

    def _settle(self, job: Job) -> bool:
        """Give it slots, or have them given back for it. False: it waits, and so does what is like it."""
        shape = self.nodes.shape(job)
        if shape is None or job.least > self.nodes.most(shape):
            self._hold(job, f"{job.least} x {dict(job.each)} fit on no nodes that {self.pool!r} has now")
            return False
        if (over := self.shares.over_limit(job, job.least)) is not None:
            self._hold(job, over)
            return False
        room = self._room()
        for grid, backfill in self._grids(room, job):
            if (job.each, job.labels, job.least, backfill, self.wanted is None) in self._no_room:
                continue
            for count in self._sizes(job, shape, grid):
                placed = self._placed(grid, shape, job, count, backfill)
                if placed is not None:
                    self._take(job, shape, placed)
                    self.admits.append(Admit(job=job, placed=placed, backfill=backfill))
                    return True
        return self._take_back(job, shape)

    def _room(self) -> Grid:
        """What nobody holds and nobody was promised."""
        if self._both is None:
            self._both = np.minimum(self.free, self.later)
        return self._both

    def _grids(self, room: Grid, job: Job) -> Iterator[tuple[Grid, bool]]:
        """Where it may go: beside what somebody waits for, or, if it can be stopped, on that too."""
        if self.wanted is None:
            yield room, False
            return
        yield room - self.wanted, False
        if job.preemptible:
            yield room, True

    def _sizes(self, job: Job, shape: Shape, grid: Grid) -> Iterator[int]:
        """All that fits, but above the least no more than the fair share; at last the least."""
        if job.count > job.least:
            most = min(job.count, int(self.nodes.bundles(grid, shape).sum()), self.shares.within(job))
            yield from (n for n in range(most, job.least, -1) if self.shares.over_limit(job, n) is None)
        yield job.least

    def _placed(self, grid: Grid, shape: Shape, job: Job, count: int, backfill: bool) -> Placed | None:
        key = (job.each, job.labels, count, backfill, self.wanted is None)
        if key in self._no_room:  # there is only less from one to the next
            return None
        placed = self.nodes.place(grid, shape, count)
        if placed is None:
            self._no_room.add(key)
        return placed

    def _take(self, job: Job, shape: Shape, placed: Placed) -> None:
        self.nodes.add(self.free, shape, placed, -1)
        self.nodes.add(self.later, shape, placed, -1)
        self._both = None
        self.shares.add(job, sum(count for _, count in placed))

    def _take_back(self, job: Job, shape: Shape) -> bool:
        first, alike = self.wanted is None, (job.tenant, job.each, job.labels, job.preemptible)
        victims = None
        if job.least < self._no_right.get(alike, job.least + 1):
            least = self._least(job, alike)
            if least < job.least and self._victims(replace(job, least=least), shape, first) is None:
                self._no_right[alike] = least
            else:
                victims = self._victims(job, shape, first)
        if victims is not None:
            for lease, reason in victims:
                self._evicted.add(lease.job.id)
                self.evictions.append(Evict(lease=lease, by=job, reason=reason))
                self.nodes.add(self.later, self._shape(lease.job), lease.placed, 1)
                self.shares.give_back(lease)
            self._no_room.clear()
            self._both = None
            promised = self.nodes.place(self._base(job), shape, job.least)
            assert promised is not None
            self.nodes.add(self.later, shape, promised, -1)
            self.shares.add(job, job.least)
            self._hold(job, "its slots are being given back")
            return True
        # Neither has what comes later of this tenant and asks for as much: its priority is no higher.
        self._no_right[alike] = min(job.least, self._no_right.get(alike, job.least))
        if first:
            self.wanted = self._wanted(job, shape)
        self._passed.add((self.policy.tier(job), job.tenant))
        self.holds[job.group] = self._why(job)
        return False

    def _least(self, job: Job, alike: tuple[object, ...]) -> int:
        """The smallest gang that waits behind it: where that has no right to slots, none between has."""
        behind = self._queues[-self.policy.tier(job), job.tenant]
        heads = (group.jobs[group.at] for group in behind)
        return min(one.least for one in heads if (one.tenant, one.each, one.labels, one.preemptible) == alike)

    def _wanted(self, job: Job, shape: Shape) -> Grid:
        """Slots where most of what it waits for is free or can be stopped."""
        kept = self.nodes.total.copy()
        for lease in self.leases:
            if not lease.draining and not lease.job.preemptible:
                self.nodes.add(kept, self._shape(lease.job), lease.placed, -1)
        for admit in self.admits:
            self.nodes.add(kept, self._shape(admit.job), admit.placed, -1)
        wanted = np.zeros_like(kept)
        placed = self.nodes.place(kept, shape, job.least) or self.nodes.place(self.nodes.total, shape, job.least)
        assert placed is not None
        self.nodes.add(wanted, shape, placed, 1)
        return wanted

    def _victims(self, job: Job, shape: Shape, first: bool) -> list[tuple[Lease, str]] | None:
        """Whose slots it takes back: of the lowest priorities that are enough, one that is enough alone or else the youngest, and
        none that is not needed. None if it has no right to enough of them."""
        if self.nodes.place(self._base(job), shape, job.least) is not None:
            return []  # what is being given back already is enough
        rights = self._rights(job, first)
        if not rights.any:
            return None
        later, chosen = self._base(job), []
        for lease in rights.worth_a_look():
            reason = None if lease.job.id in self._evicted else rights.over(lease)
            if reason is None or not self._helps(lease, shape):
                continue
            rights.given_up(lease)
            chosen.append((lease, reason))
            self.nodes.add(later, self._shape(lease.job), lease.placed, 1)
            if self.nodes.place(later, shape, job.least) is not None:
                return self._fewest(job, shape, first, chosen, later)
        return None

    def _base(self, job: Job) -> Grid:
        """What it may be promised: nothing that the first waits for, unless it can be stopped again."""
        if self.wanted is None or job.preemptible:
            return self.later.copy()
        return self.later - self.wanted

    def _rights(self, job: Job, first: bool) -> Rights:
        return Rights(self.shares, job, first=first, guaranteed=self._guaranteed(job), now_us=self.now_us)

    def _helps(self, lease: Lease, shape: Shape) -> bool:
        """Whether it holds any of what is asked for."""
        return bool(self._shape(lease.job).takes[shape.columns].any())

    def _fewest(
        self, job: Job, shape: Shape, first: bool, chosen: list[tuple[Lease, str]], later: Grid
    ) -> list[tuple[Lease, str]]:
        highest, rights = max(lease.job.priority for lease, _ in chosen), self._rights(job, first)
        for lease in rights.worth_a_look():
            reason = None if lease.job.id in self._evicted else rights.over(lease)
            if reason is None or lease.job.priority > highest:
                continue
            alone = self._base(job)
            self.nodes.add(alone, self._shape(lease.job), lease.placed, 1)
            if self.nodes.place(alone, shape, job.least) is not None:
                return [(lease, reason)]
        kept = list(chosen)
        for one in reversed(chosen):
            without = later.copy()
            self.nodes.add(without, self._shape(one[0].job), one[0].placed, -1)
            if self.nodes.place(without, shape, job.least) is not None:
                later = without
                kept.remove(one)
        return kept

    def _why(self, job: Job) -> Hold:
        return Hold(reason=self.shares.why(job), evidence={"tenant": job.tenant, "pool": self.pool})

    def _hold(self, job: Job, reason: str) -> None:
        self.holds[job.group] = Hold(reason=reason, evidence={"tenant": job.tenant, "pool": self.pool})
