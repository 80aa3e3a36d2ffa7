"""What may be stopped in a pool, in columns: who looks for slots to take back sees at once which of it is worth a closer look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlplat.clock import US_PER_S
from mlplat.jobs.job import Lease
from mlplat.jobs.policy import LAST
from mlplat.jobs.shares import Shares

Column = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Stoppable:
    """`leases` in the order in which they are stopped, and columns of what does not change during a plan: which row of
    `tenants` is its tenant's, whether it is idle work, was lent, has run for its `min_run_s`, and what its tenant used lately."""

    def __init__(self, shares: Shares, leases: Sequence[Lease], now_us: int) -> None:
        self.leases = sorted(
            (lease for lease in leases if lease.job.preemptible and not lease.draining),
            key=lambda lease: (not lease.backfill, lease.job.priority, -lease.started_us, lease.job.id),
        )
        self._shares, jobs = shares, [lease.job for lease in self.leases]
        self._rows = {job.id: row for row, job in enumerate(jobs)}
        self.tenants = {name: at for at, name in enumerate(sorted({job.tenant for job in jobs}))}
        self.tenant = np.array([self.tenants[job.tenant] for job in jobs], dtype=np.intp)
        self.idle: Mask = np.array([shares.policy.tier(job) == LAST for job in jobs], dtype=bool)
        self.lent: Mask = np.array([lease.backfill for lease in self.leases], dtype=bool)
        self.ripe: Mask = np.array(
            [now_us - lease.started_us >= lease.job.min_run_s * US_PER_S for lease in self.leases], dtype=bool
        )
        self.usage: Column = np.array([shares.usage(job.tenant) for job in jobs], dtype=np.float64)
        self._gives = np.array(
            [shares.dominant(one.job, one.size) / shares.weight(one.job.tenant) for one in self.leases],
            dtype=np.float64,
        )
        self._there: Mask = np.ones(len(jobs), dtype=bool)
        self._seen = shares.changes
        self._weighted, self._over = (
            np.array([stands(name) for name in self.tenants], dtype=np.float64)
            for stands in (shares.weighted, shares.over)
        )

    def stand(self) -> tuple[Column, Column]:
        """How the tenant of each stands now: its weighted share without that lease, and how much more than its fair share it
        holds with it."""
        shares = self._shares
        if shares.changes > self._seen:
            for name, at in reversed(shares.changed.items()):
                if at <= self._seen:
                    break
                if (row := self.tenants.get(name)) is not None:
                    self._weighted[row], self._over[row] = shares.weighted(name), shares.over(name)
            self._seen = shares.changes
        return self._weighted[self.tenant] - self._gives, self._over[self.tenant]

    def stopped(self, lease: Lease) -> None:
        self._there[self._rows[lease.job.id]] = False

    def those(self, mask: Mask) -> list[Lease]:
        """But for those that were stopped since."""
        return [self.leases[row] for row in np.flatnonzero(mask & self._there).tolist()]
