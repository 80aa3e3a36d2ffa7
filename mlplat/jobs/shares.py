"""What tenants hold of a pool, and how that stands to what they may hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mlplat.jobs.job import Job, Lease, Pool, Tenant
from mlplat.jobs.policy import LAST, Policy
from mlplat.jobs.room import Grid, Nodes

ROUND = 1e-9
"""Shares that differ by less are the same."""
_WIDEST = 8


class Shares:
    """What tenants hold of a pool. Idle work does not count: it gives way to everybody."""

    def __init__(
        self,
        nodes: Nodes,
        leases: Sequence[Lease],
        tenants: Mapping[str, Tenant],
        policy: Policy,
        *,
        pool: str,
        usage: Mapping[tuple[str, str], float],
        groups: Iterable[Sequence[Job]] = (),
    ) -> None:
        """`groups` are the jobs that wait, by what they ask for."""
        self.policy, self.pool = policy, pool
        self._nodes, self._tenants, self._usage = nodes, tenants, usage
        self._capacity = np.maximum(nodes.total.sum(axis=0), 1)
        self._held: dict[str, Grid] = {}
        self._bounds: dict[tuple[str, str], Grid | None] = {}
        self._share: dict[str, float] = {}
        self._largest: float | None = None
        self._all: dict[str, Grid] = {}  # idle work too, and what is being given back
        self._dominant: dict[tuple[tuple[str, float], ...], float] = {}
        self._vectors: dict[tuple[tuple[str, float], ...], Grid] = {}
        for lease in leases:
            self.add(lease.job, lease.size)
            if lease.draining:
                self.give_back(lease)
        self.fair = self._fair(groups)
        self.stoppable = sorted(
            (lease for lease in leases if lease.job.preemptible and not lease.draining),
            key=lambda lease: (not lease.backfill, lease.job.priority, -lease.started_us, lease.job.id),
        )
        self.tenants = {lease.job.tenant for lease in self.stoppable}
        self.most_used = max((self.usage(lease.job.tenant) for lease in self.stoppable), default=0.0)
        self.lowest: dict[str | None, int] = {}  # priority of what may be stopped, by tenant and of all
        for lease in self.stoppable:
            for name in (lease.job.tenant, None):
                self.lowest[name] = min(lease.job.priority, self.lowest.get(name, lease.job.priority))

    def _fair(self, groups: Iterable[Sequence[Job]]) -> dict[str, float]:
        """The share that each would have if slots could be cut: in proportion to weights, nobody more than it asks for, and what
        those leave to the others."""
        asked = {name: self.weighted(name) * self.weight(name) for name in self._held}
        for jobs in groups:
            if self.policy.tier(jobs[0]) > LAST:
                more = self.dominant(jobs[0], jobs[0].count) * len(jobs)
                asked[jobs[0].tenant] = asked.get(jobs[0].tenant, 0.0) + more
        left, weights, fair = 1.0, sum(map(self.weight, asked)), {}
        for name in sorted(asked, key=lambda name: (asked[name] / self.weight(name), name)):
            fair[name] = max(0.0, min(asked[name], left * self.weight(name) / weights))
            left, weights = left - fair[name], weights - self.weight(name)
        return fair

    def over(self, name: str) -> float:
        """How much more than its fair share a tenant holds, by its weight."""
        return self.weighted(name) - self.fair.get(name, 0.0) / self.weight(name)

    def below(self, job: Job) -> bool:
        """Whether its tenant has no more than its fair share with the job too."""
        return self.over(job.tenant) + self.dominant(job, job.least) / self.weight(job.tenant) <= ROUND

    def turn(self, job: Job) -> float:
        """By how much less its tenant has to have used for the job to be its turn: a slice of what it asks for, or, where that is
        far more than its fair share, of a multiple of that, which is reached in the end."""
        asked = min(self.dominant(job, job.least), _WIDEST * self.fair.get(job.tenant, 0.0))
        return self.policy.slice_s * asked / self.weight(job.tenant)

    def weight(self, name: str) -> float:
        tenant = self._tenants.get(name)
        return 1.0 if tenant is None else tenant.weight

    def usage(self, name: str) -> float:
        return self._usage.get((self.pool, name), 0.0)

    def add(self, job: Job, count: int) -> None:
        given = self.vector(job) * count
        self._all[job.tenant] = self._all.get(job.tenant, 0) + given
        if self.policy.tier(job) > LAST:
            self._held[job.tenant] = self.held(job.tenant) + given
            self._changed(job.tenant)

    def give_back(self, lease: Lease) -> None:
        """Its slots are as good as another's."""
        if self.policy.tier(lease.job) > LAST:
            self._held[lease.job.tenant] = self.held(lease.job.tenant) - self.vector(lease.job) * lease.size
            self._changed(lease.job.tenant)

    def _changed(self, name: str) -> None:
        self._share.pop(name, None)
        self._largest = None

    def held(self, name: str) -> Grid:
        found = self._held.get(name)
        return np.zeros(len(self._capacity), dtype=np.int64) if found is None else found

    def vector(self, job: Job) -> Grid:
        found = self._vectors.get(job.each)
        if found is None:
            found = self._vectors[job.each] = self._nodes.vector(dict(job.each))
        return found

    def dominant(self, job: Job, count: int) -> float:
        """The share of the pool that bundles are."""
        one = self._dominant.get(job.each)
        if one is None:
            one = self._dominant[job.each] = float((self.vector(job) / self._capacity).max())
        return one * count

    def weighted(self, name: str, more: float = 0.0) -> float:
        share = self._share.get(name)
        if share is None:
            share = float((self.held(name) / self._capacity).max()) if name in self._held else 0.0
            self._share[name] = share
        return (share + more) / self.weight(name)

    @property
    def largest(self) -> float:
        """The largest weighted share of those who have something that may be stopped."""
        if self._largest is None:
            self._largest = max((self.weighted(name) for name in self.lowest if name is not None), default=0.0)
        return self._largest

    def within(self, job: Job) -> int:
        """How many bundles make its tenant's fair share full."""
        return int(-self.over(job.tenant) * self.weight(job.tenant) / max(self.dominant(job, 1), 1e-12) + 1e-9)

    def below_quota(self, job: Job) -> bool:
        """Whether it is so with the job too."""
        quota = self._bound(job.tenant, "quota")
        return quota is not None and bool((self.held(job.tenant) + self.vector(job) * job.least <= quota).all())

    def borrows(self, job: Job, less: Grid | None) -> bool:
        """Whether its tenant holds more than its quota, of a resource that the job has."""
        quota = self._bound(job.tenant, "quota")
        held = self.held(job.tenant) if less is None else self.held(job.tenant) - less
        over = held > (0 if quota is None else quota)
        return bool(over[self.vector(job) > 0].any())

    def keeps_quota(self, lease: Lease, gone: Grid | None) -> bool:
        """Whether a tenant has its quota without a lease too, or the lease alone is more than that."""
        quota = self._bound(lease.job.tenant, "quota")
        if quota is None:
            return True
        given = self.vector(lease.job) * lease.size
        left = self.held(lease.job.tenant) - given - (0 if gone is None else gone)
        return bool((left >= quota)[given > 0].all() or (given > quota).any())

    def over_limit(self, job: Job, count: int) -> str | None:
        """How far that many bundles more would go over the limit of its tenant, in words."""
        limit = self._bound(job.tenant, "limit", absent=np.iinfo(np.int64).max)
        if limit is None:
            return None
        after = self._all.get(job.tenant, 0) + self.vector(job) * count
        for name, held, most in zip(self._nodes.resources, after.tolist(), limit.tolist(), strict=True):
            if held > most:
                return f"{job.tenant!r} would have {held / 10_000:g} {name}, over its limit of {most / 10_000:g}"
        return None

    def _bound(self, name: str, word: str, absent: int = 0) -> Grid | None:
        key = (name, word)
        if key not in self._bounds:
            tenant = self._tenants.get(name)
            amounts = None if tenant is None else getattr(tenant, word).get(self.pool)
            self._bounds[key] = None if not amounts else self._nodes.vector(amounts, absent)
        return self._bounds[key]

    def why(self, job: Job) -> str:
        share = self.weighted(job.tenant) * self.weight(job.tenant)
        return f"others have the slots, and {job.tenant!r} has {share:.0%} of {self.pool!r}"


def shares_of(
    pools: Sequence[Pool], tenants: Mapping[str, Tenant], leases: Iterable[Lease], policy: Policy
) -> dict[tuple[str, str], float]:
    """The weighted dominant share that leases are, by pool and tenant; those that give their slots back count until they have."""
    by_pool: dict[str, list[Lease]] = {}
    for lease in leases:
        by_pool.setdefault(lease.job.pool, []).append(lease)
    found = {}
    for pool in pools:
        own = by_pool.get(pool.name, [])
        shares = Shares(Nodes(pool.nodes), own, tenants, policy, pool=pool.name, usage={})
        for tenant in sorted({lease.job.tenant for lease in own}):
            found[pool.name, tenant] = shares.weighted(tenant)
    return found
