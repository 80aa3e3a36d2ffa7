"""What tenants hold of a pool, and how that stands to what they may hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import truediv

from mlplat.jobs.job import Job, Lease, Pool, Tenant
from mlplat.jobs.policy import LAST, Policy
from mlplat.jobs.room import MOST, Nodes, Vector, plus

ROUND = 1e-9
"""Shares that differ by less are the same."""
_WIDEST = 8
Quota = tuple[tuple[int, int, int], ...]


@dataclass(slots=True, eq=False)
class Standing:
    """How a tenant stands in a pool. `everything` is idle work too, and what is being given back. `asks` is the
    share that it holds and asks for, `fair` the one that it would have if slots could be cut. `over` is how much more than
    its fair share it holds, and `weighted` what it holds, both by its weight. `changed` is the last of the changes of what
    tenants hold that was one of what it holds."""

    name: str
    weight: float
    usage: float
    held: Vector
    everything: Vector
    quota: Vector | None
    limit: Vector | None
    share: float = 0.0
    asks: float = 0.0
    fair: float = 0.0
    weighted: float = 0.0
    over: float = 0.0
    changed: int = 0

    def stands(self, share: float) -> None:
        self.share, self.weighted = share, share / self.weight
        self.over = self.weighted - self.fair / self.weight

    def below(self, more: float) -> bool:
        """Whether it has no more than its fair share with so much more, too."""
        return self.over + more / self.weight <= ROUND


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
    ) -> None:
        self.policy, self.pool = policy, pool
        self._nodes, self._tenants, self._usage = nodes, tenants, usage
        self._capacity: Vector = tuple(max(1, total) for total in nodes.total.sum(axis=0).tolist())
        self._nothing = (0,) * len(self._capacity)
        self._stands: dict[str, Standing] = {}
        self._quotas: dict[str, Quota] = {}  # by kind of job, as what follows
        self._bundles: dict[str, tuple[Vector, float]] = {}
        self._made_of: dict[tuple[tuple[str, float], ...], tuple[Vector, float]] = {}
        self.changes: list[Standing] = []
        """Whose, one for each change."""
        self.fair: dict[str, float] = {}
        self._begin(leases)

    def _begin(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            job = lease.job
            stand, given = self.of(job.tenant), self.vector(job)
            counts = self.policy.tier(job) > LAST
            if counts and not lease.draining:
                stand.held = plus(stand.held, given, lease.size)
            else:
                stand.everything = plus(stand.everything, given, lease.size)
            if counts:
                self.fair[stand.name] = 0.0
        for stand in self._stands.values():
            stand.everything = plus(stand.everything, stand.held)
            stand.stands(self._largest(stand.held))
            stand.asks = stand.weighted * stand.weight

    def ask(self, stand: Standing) -> None:
        """It has part in the shares: `Standing.asks` says how far."""
        self.fair.setdefault(stand.name, 0.0)

    def divide(self) -> None:
        """Work out the share that each would have if slots could be cut: in proportion to weights, nobody more than it asks for,
        and what those leave to the others."""
        asking = [self._stands[name] for name in self.fair]
        left, weights = 1.0, sum([stand.weight for stand in asking])
        for stand in sorted(asking, key=lambda stand: (stand.asks / stand.weight, stand.name)):
            self.fair[stand.name] = stand.fair = max(0.0, min(stand.asks, left * stand.weight / weights))
            left, weights = left - stand.fair, weights - stand.weight
            stand.stands(stand.share)

    def of(self, name: str) -> Standing:
        found = self._stands.get(name)
        if found is None:
            tenant = self._tenants.get(name)
            found = self._stands[name] = Standing(
                name=name,
                weight=1.0 if tenant is None else tenant.weight,
                usage=self._usage.get((self.pool, name), 0.0),
                held=self._nothing,
                everything=self._nothing,
                quota=self._bound(tenant, "quota", absent=-1),
                limit=self._bound(tenant, "limit", absent=MOST),
            )
        return found

    def turn(self, stand: Standing, asked: float) -> float:
        """By how much less a tenant has to have used for it to be its turn: a slice of what it asks for, or, where that is far
        more than its fair share, of a multiple of that, which is reached in the end."""
        return self.policy.slice_s * min(asked, _WIDEST * stand.fair) / stand.weight

    def add(self, job: Job, count: int) -> None:
        stand, given = self.of(job.tenant), self.vector(job)
        stand.everything = plus(stand.everything, given, count)
        if self.policy.tier(job) > LAST:
            self._holds(stand, plus(stand.held, given, count))

    def give_back(self, lease: Lease) -> None:
        """Its slots are as good as another's."""
        if self.policy.tier(lease.job) > LAST:
            stand = self.of(lease.job.tenant)
            self._holds(stand, plus(stand.held, self.vector(lease.job), -lease.size))

    def _holds(self, stand: Standing, held: Vector) -> None:
        stand.held = held
        stand.stands(self._largest(held))
        self.changes.append(stand)
        stand.changed = len(self.changes)

    def vector(self, job: Job) -> Vector:
        return self._bundle(job)[0]

    def dominant(self, job: Job, count: int) -> float:
        """The share of the pool that bundles are."""
        return self._bundle(job)[1] * count

    def _bundle(self, job: Job) -> tuple[Vector, float]:
        found = self._bundles.get(job.kind)
        if found is None:
            if (found := self._made_of.get(job.each)) is None:
                vector = self._nodes.vector(dict(job.each))
                found = self._made_of[job.each] = vector, self._largest(vector)
            self._bundles[job.kind] = found
        return found

    def _largest(self, given: Vector) -> float:
        return max(map(truediv, given, self._capacity), default=0.0)

    def within(self, job: Job) -> int:
        """How many bundles make its tenant's fair share full."""
        stand = self.of(job.tenant)
        return int(-stand.over * stand.weight / max(self.dominant(job, 1), 1e-12) + 1e-9)

    def quota(self, job: Job) -> Quota:
        """Of each resource of the job for which its tenant has a quota: its place, that, and what a bundle has of it. A quota
        counts for what names one of its resources, and for these alone."""
        found = self._quotas.get(job.kind)
        if found is None:
            bounds, vector = self.of(job.tenant).quota or (), self.vector(job)
            found = tuple([(at, bound, vector[at]) for at, bound in enumerate(bounds) if bound >= 0 and vector[at] > 0])
            self._quotas[job.kind] = found
        return found

    def borrows(self, job: Job, less: Vector | None) -> bool:
        """Whether its tenant holds more than its quota, of a resource that the job has, or has none for it."""
        quota, held, gone = self.quota(job), self.of(job.tenant).held, less or self._nothing
        return not quota or any(held[at] - gone[at] > bound for at, bound, _ in quota)

    def keeps_quota(self, lease: Lease, gone: Vector | None) -> bool:
        """Whether a tenant has its quota without a lease too, or the lease alone is more than that."""
        needs, held = self.needs(lease), self.of(lease.job.tenant).held
        return all(held[at] - (0 if gone is None else gone[at]) >= need for at, need in needs)

    def needs(self, lease: Lease) -> tuple[tuple[int, int], ...]:
        """What a tenant has to hold of which resources for it to have its quota without a lease too."""
        if not (quota := self.quota(lease.job)):
            return ()
        size = lease.size
        alone = any(has * size > bound for _, bound, has in quota)
        return () if alone else tuple([(at, bound + has * size) for at, bound, has in quota])

    def over_limit(self, job: Job, count: int) -> str | None:
        """How far that many bundles more would go over the limit of its tenant, in words."""
        stand = self.of(job.tenant)
        if (limit := stand.limit) is None:
            return None
        after = plus(stand.everything, self.vector(job), count)
        for name, held, most in zip(self._nodes.resources, after, limit, strict=True):
            if held > most:
                return f"{job.tenant!r} would have {held / 10_000:g} {name}, over its limit of {most / 10_000:g}"
        return None

    def _bound(self, tenant: Tenant | None, word: str, absent: int) -> Vector | None:
        amounts = None if tenant is None else getattr(tenant, word).get(self.pool)
        return None if not amounts else self._nodes.vector(amounts, absent)


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
            found[pool.name, tenant] = shares.of(tenant).weighted
    return found
