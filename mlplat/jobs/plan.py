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

import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlplat.decision import Hold
from mlplat.jobs.job import Job, Lease, Pool, Tenant
from mlplat.jobs.lines import Group, Line, lines
from mlplat.jobs.policy import Policy
from mlplat.jobs.rights import Rights
from mlplat.jobs.room import Grid, Nodes, Placed, Shape
from mlplat.jobs.shares import ROUND, Shares, Standing
from mlplat.jobs.slots import Fit, Slots, Trial
from mlplat.jobs.stoppable import Stoppable
from mlplat.jobs.victims import Victims, search


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
    by_pool: dict[str, list[list[Job]]] = {pool.name: [] for pool in snapshot.pools}
    holds: dict[str, Hold] = {}
    for group, jobs in groups.items():
        pool = jobs[0].pool
        if pool in by_pool:
            by_pool[pool].append(jobs)
        else:
            holds[group] = Hold(reason=f"there is no pool {pool!r} now", evidence={"pool": pool})
    found = [_Planner(pool, snapshot, policy, by_pool[pool.name], now_us) for pool in snapshot.pools]
    for one in found:
        one.run()
        holds |= one.holds
    return Plan(
        admits=tuple(admit for one in found for admit in one.admits),
        evictions=tuple(evict for one in found for evict in one.evictions),
        holds=holds,
        over={(one.pool, name): one.shares.of(name).over for one in found for name in sorted(one.shares.fair)},
    )


class _Planner:
    """One pool. `wanted`: somebody waits for slots that others cannot have but for a while."""

    def __init__(
        self, pool: Pool, snapshot: Snapshot, policy: Policy, groups: Sequence[Sequence[Job]], now_us: int
    ) -> None:
        self.nodes = Nodes(pool.nodes)
        self.pool, self.policy, self.now_us = pool.name, policy, now_us
        self.leases = [lease for lease in snapshot.leases if lease.job.pool == pool.name]
        self.shares = Shares(self.nodes, self.leases, snapshot.tenants, policy, pool=pool.name, usage=snapshot.usage)
        self.lines = lines(groups, self.nodes, self.shares)
        self.stoppable = Stoppable(self.shares, self.leases, now_us)
        self.slots = Slots(self.nodes, self.leases)
        self.wanted = False
        self.admits: list[Admit] = []
        self.evictions: list[Evict] = []
        self.holds: dict[str, Hold] = {}
        self._no_room: set[tuple[Shape | None, int]] = set()  # beside what somebody waits for, if anybody does
        self._no_room_lent: set[tuple[Shape | None, int]] = set()
        self._nothing: set[tuple[object, ...]] = set()  # until slots change hands; so is what follows
        self._rightless: dict[
            Standing, float
        ] = {}  # who has no right to anything for that much: later priorities are no higher
        self._whys: dict[Standing, tuple[int, Hold]] = {}

    def run(self) -> None:
        heap = [(self._rank(line), line.stand.name, 0, line) for line in self.lines]
        heapq.heapify(heap)
        entry = heapq.heappop(heap) if heap else None
        while entry is not None:
            rank, tenant, as_of, line = entry
            if not (self._moved(line, as_of) and self._rank(line) != rank):
                if self._settle(line):
                    line.next()
                else:
                    self._drop(line)
            if line.groups:
                entry = heapq.heappushpop(heap, (self._rank(line), tenant, len(self.shares.changes), line))
            else:
                entry = heapq.heappop(heap) if heap else None

    def _moved(self, line: Line, as_of: int) -> bool:
        """Whether its tenant holds more or less than it did then."""
        return line.stand.changed > as_of

    def _drop(self, line: Line) -> None:
        """The first waits, and so do those behind it of which that is known from others of its tenant that ask for the same or
        less: most of a long queue."""
        groups, no_room, lent = line.groups, self._no_room, self._no_room_lent if self.wanted else None
        at = 1
        for group in groups[1:]:
            kind, asks = group.kind, (group.kind.shape, group.least)
            if group.least < kind.no_right or asks not in no_room:
                break
            if lent is not None and kind.preemptible and asks not in lent:
                break
            at += 1
        if at > 1:
            self.holds |= dict.fromkeys([group.head.group for group in groups[1:at]], self._why(line.stand))
        del groups[:at]

    def _rank(self, line: Line) -> _Rank:
        stand, group = line.stand, line.groups[0]
        asked = group.kind.share * group.least
        if (stand.usage < 0 and stand.usage < -self.shares.turn(stand, asked)) or stand.below(asked):
            stands = 0
        else:
            stands = 1 if stand.over <= ROUND else 2
        guaranteed = not line.passed and group.kind.below_quota(stand, group.least)
        return -line.tier, not guaranteed, stands, stand.usage, stand.weighted

    def _settle(self, line: Line) -> bool:
        """Give its first job slots, or have them given back for it. False: it waits, and so does what is like it."""
        group = line.groups[0]
        job, shape, least = group.head, group.kind.shape, group.least
        if shape is None or least > self.nodes.most(shape):
            self._hold(job, f"{least} x {dict(job.each)} fit on no nodes that {self.pool!r} has now")
            return False
        if line.stand.limit is not None and (over := self.shares.over_limit(job, least)) is not None:
            self._hold(job, over)
            return False
        asks = shape, least
        later = self.slots.fit(shape, least, later=True, whole=job.preemptible)
        for backfill in (False, True) if self.wanted and job.preemptible else (False,):
            no_room = self._no_room_lent if backfill else self._no_room
            if asks in no_room:  # there is only less from one to the next
                continue
            if (fit := self._now(shape, least, later, backfill)) is None:
                no_room.add(asks)
                continue
            placed = self.nodes.spread(fit.room, self._size(job, fit.total))
            self.slots.take(shape, placed)
            self.shares.add(job, sum(count for _, count in placed))
            self._forget()
            self.admits.append(Admit(job=job, placed=placed, backfill=backfill))
            return True
        return self._take_back(line, group, shape, later)

    def _now(self, shape: Shape, least: int, later: Fit | None, backfill: bool) -> Fit | None:
        """What fits now, if that is enough: no more than `later`."""
        return None if later is None else self.slots.fit(shape, least, later=False, whole=backfill)

    def _forget(self) -> None:
        """Slots changed hands."""
        self._nothing.clear()
        self._rightless.clear()

    def _size(self, job: Job, fit: int) -> int:
        """All that fits, but above the least no more than the fair share; at last the least."""
        if job.count > job.least:
            most = min(job.count, fit, self.shares.within(job))
            within = (n for n in range(most, job.least, -1) if self.shares.over_limit(job, n) is None)
            return next(within, job.least)
        return job.least

    def _take_back(self, line: Line, group: Group, shape: Shape, later: Fit | None) -> bool:
        job, kind = group.head, group.kind
        if group.least < kind.no_right:
            victims = [] if later else self._least_victims(line, group, shape)
            if victims is not None:
                self._promise(job, shape, victims)
                return True
            kind.no_right = min(group.least, kind.no_right)
        if not self.wanted:
            self.slots.set_aside(self._wanted(job, shape))
            self.wanted = True
            self._no_room.clear()
            self._nothing.clear()
        line.passed = True
        self.holds[job.group] = self._why(line.stand)
        return False

    def _promise(self, job: Job, shape: Shape, victims: Victims) -> None:
        for lease, reason in victims:
            self.stoppable.stopped(lease)
            self.evictions.append(Evict(lease=lease, by=job, reason=reason))
            self.slots.give_back(self.nodes.taken(lease.job), lease.placed)
            self.shares.give_back(lease)
        fit = self.slots.fit(shape, job.least, later=True, whole=job.preemptible)
        assert fit is not None
        self.slots.promise(shape, self.nodes.spread(fit.room, job.least))
        self.shares.add(job, job.least)
        self._no_room.clear()
        self._no_room_lent.clear()
        self._forget()
        self._hold(job, "its slots are being given back")

    def _wanted(self, job: Job, shape: Shape) -> Grid:
        """Slots where most of what it waits for is free or can be stopped."""
        kept = self.nodes.total.copy()
        for lease in self.leases:
            if not lease.draining and not lease.job.preemptible:
                self.nodes.add(kept, self.nodes.taken(lease.job), lease.placed, -1)
        for admit in self.admits:
            self.nodes.add(kept, self.nodes.taken(admit.job), admit.placed, -1)
        wanted = np.zeros_like(kept)
        placed = self.nodes.place(kept, shape, job.least) or self.nodes.place(self.nodes.total, shape, job.least)
        assert placed is not None
        self.nodes.add(wanted, shape, placed, 1)
        return wanted

    def _least_victims(self, line: Line, group: Group, shape: Shape) -> Victims | None:
        """First for the smallest gang that waits behind it: where that has no right to slots, none between has."""
        if group.least > 1:
            least = min([one.least for one in line.groups if one.kind is group.kind])
            if least < group.least and not (
                self.slots.fit(shape, least, later=True, whole=group.kind.preemptible)
                or self._victims(line, least, shape)
            ):
                group.kind.no_right = least
                return None
        return self._victims(line, group.least, shape)

    def _victims(self, line: Line, least: int, shape: Shape) -> Victims | None:
        """Whose slots its first takes back for that many bundles. None if it has no right to enough of them."""
        job, kind, stand = line.groups[0].head, line.groups[0].kind, line.stand
        guaranteed = not line.passed and kind.below_quota(stand, least)
        asked = kind.share * least
        if not guaranteed and asked >= self._rightless.get(stand, math.inf):
            return None
        alike = (stand, job.priority, shape, least, guaranteed)
        if alike in self._nothing:  # neither has what may be promised no more than that
            return None
        first = not self.wanted
        rights = Rights(self.shares, self.stoppable, job, least, first=first, guaranteed=guaranteed, now_us=self.now_us)
        worth = rights.worth_a_look()
        if not worth:
            self._rightless[stand] = asked
            return None
        found = search(rights, worth, self.nodes, shape, least, lambda: Trial(self.slots, shape, whole=job.preemptible))
        if found is None and job.preemptible:
            self._nothing.add(alike)
        return found

    def _why(self, stand: Standing) -> Hold:
        """Others have the slots."""
        known = self._whys.get(stand)
        if known is None or known[0] != stand.changed:
            reason = (
                f"others have the slots, and {stand.name!r} has {stand.weighted * stand.weight:.0%} of {self.pool!r}"
            )
            known = stand.changed, Hold(reason=reason, evidence={"tenant": stand.name, "pool": self.pool})
            self._whys[stand] = known
        return known[1]

    def _hold(self, job: Job, reason: str) -> None:
        self.holds[job.group] = Hold(reason=reason, evidence={"tenant": job.tenant, "pool": self.pool})
