"""A policy tried on work of which it is known how long it takes: no process starts, and a month takes seconds."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from mlplat.clock import US_PER_S
from mlplat.jobs.job import Job, Lease, Pool, Tenant
from mlplat.jobs.plan import Plan, Snapshot, plan
from mlplat.jobs.policy import Policy
from mlplat.jobs.shares import shares_of
from mlplat.jobs.usage import Usage

Observer = Callable[[Snapshot, Plan, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A job that takes `bundle_s` seconds of a bundle: half as many seconds with two."""

    job: Job
    bundle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """That a job held `size` bundles for a time. `stopped`: it was stopped for another before it had ended."""

    job: Job
    size: int
    began_us: int
    ended_us: int
    stopped: bool


def simulate(
    works: Iterable[Work],
    pools: Sequence[Pool],
    tenants: Mapping[str, Tenant],
    policy: Policy,
    *,
    from_us: int = 0,
    until_us: int | None = None,
    running: Iterable[tuple[Lease, float]] = (),
    grace_s: float = 1.0,
    period_s: float = 5.0,
    usage: Usage | None = None,
    observe: Observer | None = None,
) -> list[Span]:
    """What was held by whom, until all work has ended or the time is over. It begins at `from_us` with what is `running`: leases,
    and how many seconds of a bundle each still takes.

    A plan is made whenever something changes, and every `period_s` seconds while somebody waits. What is stopped gives back its
    slots `grace_s` seconds later, and has lost nothing.
    """
    run = _Run(list(works), pools, tenants, policy, grace_s, period_s, usage or Usage(), observe, now_us=from_us)
    for lease, bundle_s in running:
        run.leases[lease.job.id] = replace(lease, started_us=min(lease.started_us, from_us))
        run.left[lease.job.id] = bundle_s + (from_us - run.leases[lease.job.id].started_us) / US_PER_S * lease.size
    run.until(until_us)
    return run.spans


@dataclass(slots=True)
class _Run:
    works: list[Work]
    pools: Sequence[Pool]
    tenants: Mapping[str, Tenant]
    policy: Policy
    grace_s: float
    period_s: float
    usage: Usage
    observe: Observer | None
    spans: list[Span] = field(default_factory=list)
    now_us: int = 0
    waiting: list[Job] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    over: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def until(self, end_us: int | None) -> None:
        order = count()
        events: list[tuple[int, int, str, Job | None]] = []

        def at(us: int, what: str, job: Job | None = None) -> None:
            heapq.heappush(events, (us, next(order), what, job))

        for work in self.works:
            self.left[work.job.id] = work.bundle_s
            at(max(self.now_us, work.job.submitted_us), "submitted", work.job)
        for lease in self.leases.values():
            ends_us = lease.started_us + round(self.left[lease.job.id] / lease.size * US_PER_S)
            at(max(self.now_us, ends_us), "ended", lease.job)
            if lease.draining:
                at(self.now_us + round(self.grace_s * US_PER_S), "stopped", lease.job)
        ticking = False
        while events and (end_us is None or events[0][0] <= end_us):
            now_us = events[0][0]
            self._used(now_us)
            while events and events[0][0] == now_us:
                _, _, what, job = heapq.heappop(events)
                ticking &= what != "tick"
                if job is not None:
                    self._happened(what, job)
            found = self._planned()
            for admit in found.admits:
                lease = self.leases[admit.job.id]
                at(now_us + round(self.left[admit.job.id] / lease.size * US_PER_S), "ended", admit.job)
            for evict in found.evictions:
                at(now_us + round(self.grace_s * US_PER_S), "stopped", evict.lease.job)
            if self.waiting and self.leases and not ticking:
                ticking = True
                at(now_us + round(self.period_s * US_PER_S), "tick")
        if end_us is not None:
            self._used(end_us)
            for lease in list(self.leases.values()):
                self._free(lease, stopped=True)

    def _used(self, now_us: int) -> None:
        self.usage = self.usage.later(now_us, self.over)
        self.now_us = now_us

    def _happened(self, what: str, job: Job) -> None:
        if what == "submitted":
            self._queue(job)
            return
        lease = self.leases.get(job.id)
        if lease is None:
            return
        left = self.left[job.id] - (self.now_us - lease.started_us) / US_PER_S * lease.size
        if left < 1e-4:  # times are whole microseconds
            self._free(lease, stopped=False)
        elif what == "stopped" and lease.draining:
            self.left[job.id] = left
            self._free(lease, stopped=True)
            self._queue(job)

    def _queue(self, job: Job) -> None:
        bisect.insort(self.waiting, job, key=lambda one: (one.submitted_us, one.id))

    def _free(self, lease: Lease, *, stopped: bool) -> None:
        del self.leases[lease.job.id]
        self.spans.append(
            Span(job=lease.job, size=lease.size, began_us=lease.started_us, ended_us=self.now_us, stopped=stopped)
        )

    def _planned(self) -> Plan:
        snapshot = Snapshot(
            pools=self.pools,
            tenants=self.tenants,
            leases=tuple(self.leases.values()),
            waiting=tuple(self.waiting),
            usage=self.usage.seconds,
        )
        found = plan(snapshot, self.policy, now_us=self.now_us)
        if self.observe is not None:
            self.observe(snapshot, found, self.now_us)
        self.over = found.over
        begun = {admit.job.id for admit in found.admits}
        self.waiting = [job for job in self.waiting if job.id not in begun]
        for admit in found.admits:
            lease = Lease(job=admit.job, placed=admit.placed, started_us=self.now_us, backfill=admit.backfill)
            self.leases[admit.job.id] = lease
        for evict in found.evictions:
            self.leases[evict.lease.job.id] = replace(evict.lease, draining=True)
        shares = shares_of(self.pools, self.tenants, [self.leases[job_id] for job_id in sorted(begun)], self.policy)
        for by, share in shares.items():
            self.usage = self.usage.begun(by, share * self.policy.entry_s)
        return found
