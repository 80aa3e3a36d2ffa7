"""What may be stopped in a pool, in columns: who looks for slots to take back sees at once which of it is worth a closer look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlplat.clock import US_PER_S
from mlplat.jobs.job import Lease
from mlplat.jobs.policy import LAST
from mlplat.jobs.shares import ROUND, Shares, Standing

Column = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_NEVER = float("-inf")


@dataclass(slots=True, eq=False)
class _Tenant:
    """Whose leases are in these rows: those that have run for their `min_run_s` and go on."""

    stand: Standing
    at: int
    ripe: list[int] = field(default_factory=list)


class Stoppable:
    """`leases` in the order in which they are stopped. Of each tenant it is known how much it has left without the smallest of
    those of them that it has its quota without: most of who waits has a right to nothing, which a look at the tenants tells."""

    def __init__(self, shares: Shares, leases: Sequence[Lease], now_us: int) -> None:
        self.leases = sorted(
            [lease for lease in leases if lease.job.preemptible and not lease.draining],
            key=lambda lease: (not lease.backfill, lease.job.priority, -lease.started_us, lease.job.id),
        )
        self._shares, size, tier = shares, len(self.leases), shares.policy.tier
        self._rows = {lease.job.id: row for row, lease in enumerate(self.leases)}
        self._tenants: dict[str, _Tenant] = {}
        self._needs = [shares.needs(lease) for lease in self.leases]
        self._gives = []
        self._priority: list[int] = []
        tenants = []
        for row, lease in enumerate(self.leases):
            stand = shares.of(lease.job.tenant)
            if (own := self._tenants.get(stand.name)) is None:
                own = self._tenants[stand.name] = _Tenant(stand, len(self._tenants))
            if now_us - lease.started_us >= lease.job.min_run_s * US_PER_S:
                own.ripe.append(row)
            tenants.append(own.at)
            self._priority.append(lease.job.priority)
            self._gives.append(shares.dominant(lease.job, lease.size) / stand.weight)
        self._tenant, self._given = np.array(tenants, dtype=np.intp), np.array(self._gives, dtype=np.float64)
        self._lent: Mask = np.array([lease.backfill for lease in self.leases], dtype=np.bool_)
        self._idle: Mask = np.array([tier(lease.job) == LAST for lease in self.leases], dtype=np.bool_)
        self._lents, self._idles = int(self._lent.sum()), int(self._idle.sum())
        self._changed: list[_Tenant] = []
        self._there: Mask = np.ones(size, dtype=np.bool_)
        self._can: Mask = np.zeros(size, dtype=np.bool_)
        self._usage: Column = np.array([own.stand.usage for own in self._tenants.values()], dtype=np.float64)
        self._weighted, self._over = np.zeros(len(self._tenants)), np.zeros(len(self._tenants))
        self._left, self._overs, self._used = ([_NEVER] * len(self._tenants) for _ in range(3))
        self._seen = len(shares.changes)
        for own in self._tenants.values():
            self._look(own)
        self._most: tuple[float, float, float] | None = None

    def _look(self, own: _Tenant) -> None:
        """At a tenant that holds more or less now."""
        stand, at, smallest = own.stand, own.at, -_NEVER
        held = stand.held
        for row in own.ripe:
            can = True
            for column, need in self._needs[row]:
                if held[column] < need:
                    can = False
            self._can[row] = can
            if can and self._gives[row] < smallest:
                smallest = self._gives[row]
        self._weighted[at], self._over[at] = stand.weighted, stand.over
        any_can = smallest < -_NEVER
        self._left[at] = stand.weighted - smallest
        self._overs[at] = stand.over if any_can else _NEVER
        self._used[at] = stand.usage if any_can and stand.over >= -2 * ROUND else _NEVER

    def stopped(self, lease: Lease) -> None:
        row, own = self._rows[lease.job.id], self._tenants[lease.job.tenant]
        self._lents -= bool(self._lent[row])
        self._idles -= bool(self._idle[row])
        self._there[row] = self._lent[row] = self._idle[row] = False
        if row in own.ripe:
            own.ripe.remove(row)
            self._can[row] = False
        self._changed.append(own)

    def all(self) -> Sequence[Lease]:
        """But for those that were stopped since."""
        return self._those(self._there)

    def worth_a_look(
        self,
        stand: Standing,
        priority: int,
        *,
        after: float,
        below: bool,
        used: float | None,
        lent: bool,
        idle: bool,
    ) -> Sequence[Lease]:
        """All to which a job has a right if nothing was given up, and some more. `after`: the share that its tenant has then, by
        its weight. `below`: that is no more than its fair share. `used`: it is its turn with those who used more than that."""
        if self._changed or self._seen < len(self._shares.changes):
            self._see()
        least, bound = after - 2 * ROUND, -2 * ROUND
        if self._most is None:
            self._most = (
                max(self._left, default=_NEVER),
                max(self._overs, default=_NEVER),
                max(self._used, default=_NEVER),
            )
        smaller = self._most[0] >= least
        more = below and self._most[1] >= bound
        turn = used is not None and self._most[2] - stand.usage > used
        own = self._tenants.get(stand.name)
        lower = () if own is None else [row for row in own.ripe if self._priority[row] < priority]
        lent, idle = lent and self._lents > 0, idle and self._idles > 0
        if not (smaller or more or turn or lower or lent or idle):
            return ()
        if smaller:
            found: Mask = (self._weighted[self._tenant] - self._given) >= least
        else:
            found = np.zeros_like(self._can)
        if more:
            found |= (self._over >= bound)[self._tenant]
        if used is not None and turn:
            found |= ((self._usage - stand.usage > used) & (self._over >= bound))[self._tenant]
        found &= self._can
        for row in lower:
            found[row] = True
        if lent:
            found |= self._lent
        if idle:
            found |= self._idle
        return self._those(found)

    def _see(self) -> None:
        """What tenants hold now."""
        for own in self._changed:
            self._look(own)
        self._changed.clear()
        for stand in self._shares.changes[self._seen :]:
            if (known := self._tenants.get(stand.name)) is not None:
                self._look(known)
        self._seen = len(self._shares.changes)
        self._most = None

    def _those(self, mask: Mask) -> Sequence[Lease]:
        return [self.leases[row] for row in mask.nonzero()[0].tolist()]
