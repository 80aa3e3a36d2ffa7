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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlplat.decision import Hold
from mlplat.jobs.job import Job, Lease, Pool, Tenant
from mlplat.jobs.policy import Policy
from mlplat.jobs.rights import Rights
from mlplat.jobs.room import Grid, Nodes, Placed, Shape
from mlplat.jobs.shares import ROUND, Shares
from mlplat.jobs.stoppable import Stoppable


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
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in snapshot.waiting:
        groups[job.group].append(job)
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
    """Jobs between which only their ids and times differ, the first first. `alike` is the same for jobs of one tenant that ask
    for the same bundles and can be stopped, or cannot."""

    jobs: list[Job]
    shape: Shape | None
    alike: tuple[object, ...]
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
        self.groups = [self._group(jobs) for jobs in groups.values() if jobs[0].pool == pool.name]
        self.shares = Shares(
            self.nodes,
            self.leases,
            snapshot.tenants,
            policy,
            pool=pool.name,
            usage=snapshot.usage,
            groups=[group.jobs for group in self.groups],
        )
        self.stoppable = Stoppable(self.shares, self.leases, now_us)
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
        self._no_room: set[tuple[object, ...]] = set()
        self._passed: set[tuple[int, str]] = set()
        self._no_right: dict[tuple[object, ...], int] = {}
        self._fits: dict[
            tuple[Shape, bool, bool], tuple[Grid, int]
        ] = {}  # until slots change hands; so is what follows
        self._nothing: set[tuple[object, ...]] = set()
        self._queues: dict[tuple[int, str], list[_Group]] = {}

    def _group(self, jobs: list[Job]) -> _Group:
        shape = self.nodes.shape(jobs[0])
        return _Group(jobs=jobs, shape=shape, alike=(jobs[0].tenant, shape, jobs[0].preemptible))

    def run(self) -> None:
        queues = self._queues
        for group in self.groups:
            queues.setdefault((-self.policy.tier(group.head), group.head.tenant), []).append(group)
        heap: list[tuple[_Rank, str, int]] = []
        for (tier, tenant), own in queues.items():
            own.sort(key=_Group.key)
            heap.append((self._rank(tier, own[0].head), tenant, self.shares.changes))
        heapq.heapify(heap)
        while heap:
            rank, tenant, as_of = heapq.heappop(heap)
            own = queues[rank[0], tenant]
            moved = self.shares.changed.get(tenant, 0) > as_of  # it holds more or less than when it was put there
            if moved and (now := self._rank(rank[0], own[0].head)) != rank:
                heapq.heappush(heap, (now, tenant, self.shares.changes))
                continue
            if self._settle(own[0]):
                self._next(own)
            else:
                own.pop(0)
                at = next((i for i, group in enumerate(own) if not self._hopeless(group)), len(own))
                if at:
                    alike = self._why(own[0].head)
                    self.holds |= {group.head.group: alike for group in own[:at]}
                    del own[:at]
            if own:
                heapq.heappush(heap, (self._rank(rank[0], own[0].head), tenant, self.shares.changes))

    def _next(self, own: list[_Group]) -> None:
        """The first group has one less; it may have to go behind another of its tenant."""
        group = own.pop(0)
        group.at += 1
        if group.at < len(group.jobs):
            bisect.insort(own, group, key=_Group.key)

    def _hopeless(self, group: _Group) -> bool:
        """Known from others of its tenant that ask for the same or less: most of a long queue is."""
        job, shape, first = group.jobs[0], group.shape, self.wanted is None
        if job.least < self._no_right.get(group.alike, job.least + 1):
            return False
        if (shape, job.least, False, first) not in self._no_room:
            return False
        return first or not job.preemptible or (shape, job.least, True, first) in self._no_room

    def _rank(self, tier: int, job: Job) -> _Rank:
        shares, tenant = self.shares, job.tenant
        asked, usage = shares.dominant(job, job.least), shares.usage(tenant)
        turn = usage < -shares.turn(tenant, asked)
        stands = 0 if turn or shares.below(tenant, asked) else 1 if shares.over(tenant) <= ROUND else 2
        return tier, not self._guaranteed(job, job.least), stands, usage, shares.weighted(tenant)

    def _guaranteed(self, job: Job, least: int) -> bool:
        """Whether the quota of its tenant is for it: what waits behind another of its tenant has no right before that."""
        return (self.policy.tier(job), job.tenant) not in self._passed and self.shares.below_quota(job, least)

    def _shape(self, job: Job) -> Shape:
        shape = self.nodes.shape(job)
        if shape is None:  # the pool has changed under it
            return Shape(
                takes=np.zeros(len(self.nodes.resources), dtype=np.int64),
                parts=(),
                allowed=np.zeros(len(self.nodes.ids), dtype=np.int64),
            )
        return shape

    def _settle(self, group: _Group) -> bool:
        """Give its first job slots, or have them given back for it. False: it waits, and so does what is like it."""
        job, shape = group.head, group.shape
        if shape is None or job.least > self.nodes.most(shape):
            self._hold(job, f"{job.least} x {dict(job.each)} fit on no nodes that {self.pool!r} has now")
            return False
        if (over := self.shares.over_limit(job, job.least)) is not None:
            self._hold(job, over)
            return False
        first = self.wanted is None
        most = self._fit(shape, later=True, whole=job.preemptible)  # no more than that fits now
        for backfill in (False,) if first or not job.preemptible else (False, True):
            if (shape, job.least, backfill, first) in self._no_room:  # there is only less from one to the next
                continue
            room, fit = most if most[1] < job.least else self._fit(shape, later=False, whole=backfill)
            if fit < job.least:
                self._no_room.add((shape, job.least, backfill, first))
                continue
            placed = self.nodes.spread(room, self._size(job, fit))
            self._take(job, shape, placed)
            self.admits.append(Admit(job=job, placed=placed, backfill=backfill))
            return True
        return self._take_back(group, shape)

    def _size(self, job: Job, fit: int) -> int:
        """All that fits, but above the least no more than the fair share; at last the least."""
        if job.count > job.least:
            most = min(job.count, fit, self.shares.within(job))
            within = (n for n in range(most, job.least, -1) if self.shares.over_limit(job, n) is None)
            return next(within, job.least)
        return job.least

    def _fit(self, shape: Shape, *, later: bool, whole: bool) -> tuple[Grid, int]:
        """How many bundles fit on each node and in all, now or `later`, `whole` or beside what somebody waits for."""
        key = (shape, later, whole)
        if (found := self._fits.get(key)) is None:
            room = self.nodes.bundles(self._grid(later=later, whole=whole), shape)
            found = self._fits[key] = room, int(room.sum())
        return found

    def _grid(self, *, later: bool, whole: bool) -> Grid:
        """What nobody holds and nobody was promised; or, later, what is being given back already too."""
        if self._both is None:
            self._both = np.minimum(self.free, self.later)
        grid = self.later if later else self._both
        return grid.copy() if whole or self.wanted is None else grid - self.wanted

    def _take(self, job: Job, shape: Shape, placed: Placed) -> None:
        self.nodes.add(self.free, shape, placed, -1)
        self.nodes.add(self.later, shape, placed, -1)
        self._moved()
        self.shares.add(job, sum(count for _, count in placed))

    def _moved(self) -> None:
        """Slots changed hands: what was known of them may not be so now."""
        self._both = None
        self._fits.clear()
        self._nothing.clear()

    def _take_back(self, group: _Group, shape: Shape) -> bool:
        job, first, alike = group.head, self.wanted is None, group.alike
        victims = None
        if job.least < self._no_right.get(alike, job.least + 1):
            least = self._least(group) if job.least > 1 else 1
            if least < job.least and self._victims(job, least, shape, first) is None:
                self._no_right[alike] = least
            else:
                victims = self._victims(job, job.least, shape, first)
        if victims is not None:
            for lease, reason in victims:
                self.stoppable.stopped(lease)
                self.evictions.append(Evict(lease=lease, by=job, reason=reason))
                self.nodes.add(self.later, self._shape(lease.job), lease.placed, 1)
                self.shares.give_back(lease)
            self._no_room.clear()
            self._moved()
            room, _ = self._fit(shape, later=True, whole=job.preemptible)
            promised = self.nodes.spread(room, job.least)
            self.nodes.add(self.later, shape, promised, -1)
            self.shares.add(job, job.least)
            self._moved()
            self._hold(job, "its slots are being given back")
            return True
        # Neither has what comes later of this tenant and asks for as much: its priority is no higher.
        self._no_right[alike] = min(job.least, self._no_right.get(alike, job.least))
        if first:
            self.wanted = self._wanted(job, shape)
            self._fits.clear()
        self._passed.add((self.policy.tier(job), job.tenant))
        self.holds[job.group] = self._why(job)
        return False

    def _least(self, group: _Group) -> int:
        """The smallest gang that waits behind it: where that has no right to slots, none between has."""
        behind = self._queues[-self.policy.tier(group.head), group.head.tenant]
        return min(one.jobs[0].least for one in behind if one.alike == group.alike)

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

    def _victims(self, job: Job, least: int, shape: Shape, first: bool) -> list[tuple[Lease, str]] | None:
        """Whose slots it takes back for that many bundles: of the lowest priorities that are enough, one that is enough alone or
        else the youngest, and none that is not needed. None if it has no right to enough of them."""
        if least <= self._fit(shape, later=True, whole=job.preemptible)[1]:
            return []  # what is being given back already is enough
        guaranteed = self._guaranteed(job, least)
        alike = (job.tenant, job.priority, shape, least, first, guaranteed)
        if alike in self._nothing:  # neither has what may be promised no more than that
            return None
        rights = Rights(self.shares, self.stoppable, job, least, first=first, guaranteed=guaranteed, now_us=self.now_us)
        found = self._search(job, least, shape, rights)
        if found is None and job.preemptible:
            self._nothing.add(alike)
        return found

    def _search(self, job: Job, least: int, shape: Shape, rights: Rights) -> list[tuple[Lease, str]] | None:
        chosen: list[tuple[Lease, str]] = []
        if not (worth := rights.worth_a_look()):
            return None
        later = self._grid(later=True, whole=job.preemptible)
        for lease in worth:
            reason = rights.over(lease)
            if reason is None or not self._helps(lease, shape):
                continue
            rights.given_up(lease)
            chosen.append((lease, reason))
            self.nodes.add(later, self._shape(lease.job), lease.placed, 1)
            if self.nodes.fits(later, shape, least):
                break
        else:
            return None
        if len(chosen) == 1:
            return chosen
        rights.forget()
        highest = max(lease.job.priority for lease, _ in chosen)
        for lease in worth:
            reason = rights.over(lease)
            if reason is None or lease.job.priority > highest:
                continue
            alone = self._grid(later=True, whole=job.preemptible)
            self.nodes.add(alone, self._shape(lease.job), lease.placed, 1)
            if self.nodes.fits(alone, shape, least):
                return [(lease, reason)]
        return self._needed(least, shape, chosen, later)

    def _helps(self, lease: Lease, shape: Shape) -> bool:
        """Whether it holds any of what is asked for."""
        takes = self._shape(lease.job).takes
        return any(takes[column] for column, _ in shape.parts)

    def _needed(
        self, least: int, shape: Shape, chosen: list[tuple[Lease, str]], later: Grid
    ) -> list[tuple[Lease, str]]:
        """Those without which the others, which are given back `later`, are not enough."""
        kept = list(chosen)
        for one in reversed(chosen):
            without = later.copy()
            self.nodes.add(without, self._shape(one[0].job), one[0].placed, -1)
            if self.nodes.fits(without, shape, least):
                later = without
                kept.remove(one)
        return kept

    def _why(self, job: Job) -> Hold:
        return Hold(reason=self.shares.why(job), evidence={"tenant": job.tenant, "pool": self.pool})

    def _hold(self, job: Job, reason: str) -> None:
        self.holds[job.group] = Hold(reason=reason, evidence={"tenant": job.tenant, "pool": self.pool})
