"""Whose slots a job may take back."""

from __future__ import annotations

from collections.abc import Sequence

from mlplat.clock import US_PER_S
from mlplat.jobs.job import Job, Lease
from mlplat.jobs.policy import ABOVE, LAST
from mlplat.jobs.room import Vector, plus
from mlplat.jobs.shares import ROUND, Shares, Standing
from mlplat.jobs.stoppable import Stoppable


class Rights:
    """What a job may take slots back for. Each is a right of its own:

    - it is above fairness, and what runs has a lower priority; or what runs is idle work, and it is not: at once;
    - what runs was given slots that the job waits for (backfill): at once;
    - its tenant is below its quota, and what runs belongs to one that borrows: at once;
    - what runs is of its own tenant and of a lower priority;
    - its tenant has a smaller share, also after the change, and what runs is not there because it was the other's turn, or has
      had that;
    - its tenant has no more than its fair share after the change, and the other more before it, and has had its turn: who used
      less lately keeps what it was given for `Policy.slice_s`;
    - its tenant has no more than its fair share now and the other no less, and it used less lately, by more than `Policy.slice_s`
      seconds of what it asks for: so take turns who cannot have equal shares at once.

    The last four not before what runs has run its `min_run_s`, and the last three take nobody below its quota. What is not
    preemptible is never stopped, nor is what is above fairness for what is not.
    """

    def __init__(
        self, shares: Shares, stoppable: Stoppable, job: Job, least: int, *, first: bool, guaranteed: bool, now_us: int
    ) -> None:
        """`least`: how many bundles it is for. `first`: no other job waits for slots before it, in the pool. `guaranteed`: the
        quota of its tenant is for it."""
        self._shares, self._stoppable = shares, stoppable
        self._job, self._first, self._now_us = job, first, now_us
        self._tier = shares.policy.tier(job)
        self._guaranteed = guaranteed
        asked, stand = shares.dominant(job, least), shares.of(job.tenant)
        self._stand = stand
        self._after = (stand.share + asked) / stand.weight
        self._entitled = stand.over <= ROUND
        self._slice = shares.turn(stand, asked)
        self._below = stand.below(asked)
        self._gone: dict[str, float] = {}
        self._gone_vector: dict[str, Vector] = {}

    def worth_a_look(self) -> Sequence[Lease]:
        """All for which `over` may say something, in the order in which they are stopped; it has the last word, since what is
        given up takes rights away. Most of who waits has no right at all, and need not look at each lease for that."""
        if self._guaranteed or self._tier == ABOVE:
            return self._stoppable.all()
        stand = self._stand
        return self._stoppable.worth_a_look(
            stand,
            self._job.priority,
            after=self._after,
            below=self._below,
            used=self._slice if self._entitled and not self._below else None,
            lent=self._first,
            idle=self._tier > LAST,
        )

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
        stand, gives = shares.of(other.tenant), shares.dominant(other, lease.size)
        left = (stand.share - (gives + self._gone.get(other.tenant, 0.0))) / stand.weight
        if left >= self._after - ROUND and not self._would_come_first_again(lease, stand, gives):
            return "its tenant has a smaller share"
        above = left + (gives - stand.fair) / stand.weight
        if above < -ROUND:
            return None
        if self._below and above > ROUND and not self._keeps_its_turn(lease, stand):
            return "its tenant is below its fair share"
        if self._entitled and stand.usage - self._stand.usage > self._slice:
            return "its tenant used less lately"
        return None

    def _would_come_first_again(self, lease: Lease, stand: Standing, gives: float) -> bool:
        """As `plan` ranks who waits: it would be stopped, given the next slots, and stopped again."""
        return self._keeps_its_turn(lease, stand) and stand.usage < -self._shares.turn(stand, gives)

    def _keeps_its_turn(self, lease: Lease, stand: Standing) -> bool:
        """Else those who cannot have equal shares at once would take turns of `min_run_s`, and do little but start and stop."""
        since_s = (self._now_us - lease.started_us) / US_PER_S
        return stand.usage < self._stand.usage and since_s < self._shares.policy.slice_s

    def forget(self) -> None:
        """Nothing was given up."""
        self._gone.clear()
        self._gone_vector.clear()

    def given_up(self, lease: Lease) -> None:
        tenant, shares = lease.job.tenant, self._shares
        self._gone[tenant] = self._gone.get(tenant, 0.0) + shares.dominant(lease.job, lease.size)
        vector = shares.vector(lease.job)
        before = self._gone_vector.get(tenant, (0,) * len(vector))
        self._gone_vector[tenant] = plus(before, vector, lease.size)
