"""Whose slots a job may take back."""

from __future__ import annotations

from collections.abc import Sequence

from mlplat.clock import US_PER_S
from mlplat.jobs.job import IDLE, Job, Lease
from mlplat.jobs.policy import ABOVE, LAST
from mlplat.jobs.room import Grid
from mlplat.jobs.shares import ROUND, Shares


class Rights:
    """What a job may take slots back for. Each is a right of its own:

    - it is above fairness, and what runs has a lower priority; or what runs is idle work, and it is not: at once;
    - what runs was given slots that the job waits for (backfill): at once;
    - its tenant is below its quota, and what runs belongs to one that borrows: at once;
    - what runs is of its own tenant and of a lower priority;
    - its tenant has a smaller share, also after the change;
    - its tenant has no more than its fair share after the change, and the other no less before it;
    - its tenant has no more than its fair share now and the other no less, and it used less lately, by more than `Policy.slice_s`
      seconds of what it asks for: so take turns who cannot have equal shares at once.

    The last four not before what runs has run its `min_run_s`, and the last three take nobody below its quota. What is not
    preemptible is never stopped, nor is what is above fairness for what is not.
    """

    def __init__(self, shares: Shares, job: Job, *, first: bool, guaranteed: bool, now_us: int) -> None:
        """`first`: no other job waits for slots before it, in the pool. `guaranteed`: the quota of its tenant is for it."""
        self._shares, self._job, self._first, self._now_us = shares, job, first, now_us
        self._tier = shares.policy.tier(job)
        self._guaranteed = guaranteed
        self._after = shares.weighted(job.tenant, shares.dominant(job, job.least))
        self._entitled = shares.over(job.tenant) <= ROUND
        self._slice = shares.turn(job)
        self._below = shares.below(job)
        self._at_once = self._guaranteed or self._tier == ABOVE
        self._gone: dict[str, float] = {}
        self._gone_vector: dict[str, Grid] = {}

    @property
    def any(self) -> bool:
        """False only if there is none: most of who waits has none, and need not look at each lease."""
        shares, job = self._shares, self._job
        return bool(shares.stoppable) and (
            self._tier == ABOVE
            or self._guaranteed
            or (shares.lowest[None] <= IDLE and self._tier > LAST)
            or (self._first and shares.stoppable[0].backfill)
            or shares.lowest.get(job.tenant, job.priority) < job.priority
            or shares.largest >= self._after
            or self._below
            or (self._entitled and shares.most_used - shares.usage(job.tenant) > self._slice)
        )

    def worth_a_look(self) -> Sequence[Lease]:
        """All for which `over` may say something, in the order in which they are stopped."""
        shares, after = self._shares, self._after
        if self._at_once:
            return shares.stoppable
        own = {self._job.tenant}
        if self._entitled:
            own |= {name for name in shares.tenants if self._used_less(name)}
        if self._below:
            own |= {name for name in shares.tenants if shares.over(name) >= -ROUND}
        own |= {name for name in shares.tenants if shares.weighted(name) >= after - ROUND}
        return [one for one in shares.stoppable if one.job.tenant in own or one.backfill or one.job.priority <= IDLE]

    def _used_less(self, other: str) -> bool:
        shares = self._shares
        return shares.usage(other) - shares.usage(self._job.tenant) > self._slice

    def over(self, lease: Lease) -> str | None:
        """The right to a lease in words, or None."""
        job, other, shares = self._job, lease.job, self._shares
        theirs = shares.policy.tier(other)
        if not other.preemptible or theirs > self._tier:
            return None
        if self._tier == ABOVE and other.priority < job.priority:
            return "it has a higher priority"
        if theirs == LAST and self._tier > LAST:
            return "idle work gives way to all other"
        if lease.backfill and self._first:
            return "it was lent slots that another waits for"
        if (
            self._guaranteed
            and other.tenant != job.tenant
            and shares.borrows(other, self._gone_vector.get(other.tenant))
        ):
            return "its tenant is below its quota"
        if (self._now_us - lease.started_us) < other.min_run_s * US_PER_S:
            return None
        if other.tenant == job.tenant:
            return "its tenant gave it a higher priority" if other.priority < job.priority else None
        if not shares.keeps_quota(lease, self._gone_vector.get(other.tenant)):
            return None
        gives = shares.dominant(other, lease.size)
        left = shares.weighted(other.tenant, -gives - self._gone.get(other.tenant, 0.0))
        if left >= self._after - ROUND:
            return "its tenant has a smaller share"
        fair = shares.fair.get(other.tenant, 0.0) / shares.weight(other.tenant)
        before = left + gives / shares.weight(other.tenant)
        if before < fair - ROUND:
            return None
        if self._below:
            return "its tenant is below its fair share"
        if self._entitled and self._used_less(other.tenant):
            return "its tenant used less lately"
        return None

    def given_up(self, lease: Lease) -> None:
        tenant, shares = lease.job.tenant, self._shares
        self._gone[tenant] = self._gone.get(tenant, 0.0) + shares.dominant(lease.job, lease.size)
        vector = shares.vector(lease.job) * lease.size
        before = self._gone_vector.get(tenant)
        self._gone_vector[tenant] = vector if before is None else before + vector
