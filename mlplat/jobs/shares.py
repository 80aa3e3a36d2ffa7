"""What tenants hold of a pool, and how that stands to what they may hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import truediv

from mlplat.jobs.job import Job, Lease, Pool, Tenant
from mlplat.jobs.policy import LAST, Policy
from mlplat.jobs.room import MOST, Nodes, Vector, plus

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
        self._capacity: Vector = tuple(max(1, total) for total in nodes.total.sum(axis=0).tolist())
        self._nothing = (0,) * len(self._capacity)
        self._held: dict[str, Vector] = {}
        self._bounds: dict[tuple[str, str], Vector | None] = {}
        self._quotas: dict[tuple[str, tuple[tuple[str, float], ...]], tuple[tuple[int, int, int], ...]] = {}
        self._share: dict[str, float] = {}
        self.changes = 0
        self.changed: dict[str, int] = {}  # which of the changes was the last of what a tenant holds, the last one last
        self._all: dict[str, Vector] = {}  # idle work too, and what is being given back
        self._dominant: dict[tuple[tuple[str, float], ...], float] = {}
        self._vectors: dict[tuple[tuple[str, float], ...], Vector] = {}
        for lease in leases:
            self.add(lease.job, lease.size)
            if lease.draining:
                self.give_back(lease)
        self.fair = self._fair(groups)

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

    def below(self, name: str, more: float) -> bool:
        """Whether a tenant has no more than its fair share with so much more, too."""
        return self.over(name) + more / self.weight(name) <= ROUND

    def turn(self, name: str, asked: float) -> float:
        """By how much less a tenant has to have used for it to be its turn: a slice of what it asks for, or, where that is far
        more than its fair share, of a multiple of that, which is reached in the end."""
        return self.policy.slice_s * min(asked, _WIDEST * self.fair.get(name, 0.0)) / self.weight(name)

    def weight(self, name: str) -> float:
        tenant = self._tenants.get(name)
        return 1.0 if tenant is None else tenant.weight

    def usage(self, name: str) -> float:
        return self._usage.get((self.pool, name), 0.0)

    def add(self, job: Job, count: int) -> None:
        given = self.vector(job)
        self._all[job.tenant] = plus(self._all.get(job.tenant, self._nothing), given, count)
        if self.policy.tier(job) > LAST:
            self._held[job.tenant] = plus(self.held(job.tenant), given, count)
            self._changed(job.tenant)

    def give_back(self, lease: Lease) -> None:
        """Its slots are as good as another's."""
        if self.policy.tier(lease.job) > LAST:
            self._held[lease.job.tenant] = plus(self.held(lease.job.tenant), self.vector(lease.job), -lease.size)
            self._changed(lease.job.tenant)

    def _changed(self, name: str) -> None:
        self._share.pop(name, None)
        self.changes += 1
        self.changed.pop(name, None)
        self.changed[name] = self.changes

    def held(self, name: str) -> Vector:
        return self._held.get(name, self._nothing)

    def vector(self, job: Job) -> Vector:
        found = self._vectors.get(job.each)
        if found is None:
            found = self._vectors[job.each] = self._nodes.vector(dict(job.each))
        return found

    def dominant(self, job: Job, count: int) -> float:
        """The share of the pool that bundles are."""
        one = self._dominant.get(job.each)
        if one is None:
            one = self._dominant[job.each] = self._largest(self.vector(job))
        return one * count

    def weighted(self, name: str, more: float = 0.0) -> float:
        share = self._share.get(name)
        if share is None:
            share = self._share[name] = self._largest(self.held(name))
        return (share + more) / self.weight(name)

    def _largest(self, given: Vector) -> float:
        return max(map(truediv, given, self._capacity), default=0.0)

    def within(self, job: Job) -> int:
        """How many bundles make its tenant's fair share full."""
        return int(-self.over(job.tenant) * self.weight(job.tenant) / max(self.dominant(job, 1), 1e-12) + 1e-9)

    def below_quota(self, job: Job, count: int) -> bool:
        """Whether its tenant is so with that many bundles too. A quota counts for what names one of its resources, and for these
        alone."""
        quota = self._quota(job)
        return bool(quota) and all(self.held(job.tenant)[at] + has * count <= bound for at, bound, has in quota)

    def borrows(self, job: Job, less: Vector | None) -> bool:
        """Whether its tenant holds more than its quota, of a resource that the job has, or has none for it."""
        quota, held, gone = self._quota(job), self.held(job.tenant), less or self._nothing
        return not quota or any(held[at] - gone[at] > bound for at, bound, _ in quota)

    def keeps_quota(self, lease: Lease, gone: Vector | None) -> bool:
        """Whether a tenant has its quota without a lease too, or the lease alone is more than that."""
        quota, held, size = self._quota(lease.job), self.held(lease.job.tenant), lease.size
        left = plus(held, gone or self._nothing, -1)
        alone = any(has * size > bound for _, bound, has in quota)
        return alone or all(left[at] - has * size >= bound for at, bound, has in quota)

    def _quota(self, job: Job) -> tuple[tuple[int, int, int], ...]:
        """Of each resource of the job for which its tenant has a quota: its place, that, and what a bundle has of it."""
        key = (job.tenant, job.each)
        found = self._quotas.get(key)
        if found is None:
            bounds = self._bound(job.tenant, "quota", absent=-1) or ()
            both = enumerate(zip(bounds, self.vector(job), strict=False))
            found = self._quotas[key] = tuple((at, bound, has) for at, (bound, has) in both if has > 0 and bound >= 0)
        return found

    def over_limit(self, job: Job, count: int) -> str | None:
        """How far that many bundles more would go over the limit of its tenant, in words."""
        limit = self._bound(job.tenant, "limit", absent=MOST)
        if limit is None:
            return None
        after = plus(self._all.get(job.tenant, self._nothing), self.vector(job), count)
        for name, held, most in zip(self._nodes.resources, after, limit, strict=True):
            if held > most:
                return f"{job.tenant!r} would have {held / 10_000:g} {name}, over its limit of {most / 10_000:g}"
        return None

    def _bound(self, name: str, word: str, absent: int) -> Vector | None:
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
