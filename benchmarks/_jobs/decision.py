"""How long one decision takes on a long queue, beside sorting it."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import quantiles
from time import perf_counter
from typing import Any

from benchmarks._figures import Figures, Scene
from mlplat.jobs.job import PRIORITIES, Job, Lease, Node, Pool, Tenant
from mlplat.jobs.plan import Snapshot, plan
from mlplat.jobs.policy import Policy
from mlplat.jobs.usage import Usage

TENANTS, NODES, SLOTS_EACH = 100, 125, 8
SHAPES = ((1, 1), (1, 1), (1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (1, 8))
"""Least and count."""
US = 1_000_000


def time(scene: Scene) -> Figures:
    """Milliseconds of a decision, p95, where each time a few jobs have just ended and as many have come."""
    rng = random.Random(7)
    pool = Pool(name="gpu", nodes=tuple(Node(id=f"n{i:03}", total={"GPU": 8.0, "CPU": 64.0}) for i in range(NODES)))
    tenants = {
        f"t{i:02}": Tenant(
            name=f"t{i:02}", weight=rng.choice([1.0, 2.0]), quota={"gpu": {"GPU": rng.choice([0, 4, 8])}}
        )
        for i in range(TENANTS)
    }
    made = _Jobs(rng)
    waiting = [made.job(0) for _ in range(scene.size(10_000, 500))]
    policy, leases, usage, now_s = Policy(), [], Usage(), 0.0
    ours, sorting = [], []
    for turn in range(scene.size(100, 5)):
        now_s += 5.0
        snapshot = Snapshot(
            pools=(pool,), tenants=tenants, leases=tuple(leases), waiting=tuple(waiting), usage=usage.seconds
        )
        took_ms, found = _timed(partial(plan, snapshot, policy, now_us=round(now_s * US)))
        sorted_ms, _ = _timed(partial(sorted, waiting, key=lambda job: (-job.priority, job.submitted_us)))
        if turn >= scene.size(20, 1):  # the pool is full
            ours.append(took_ms)
            sorting.append(sorted_ms)
        usage = usage.later(round((now_s + 5.0) * US), found.over)
        gone = {evict.lease.job.id for evict in found.evictions}
        leases = [replace(lease, draining=True) if lease.job.id in gone else lease for lease in leases]
        leases += [
            Lease(job=a.job, placed=a.placed, started_us=round(now_s * US), backfill=a.backfill) for a in found.admits
        ]
        begun = {admit.job.id for admit in found.admits}
        waiting = [job for job in waiting if job.id not in begun]
        for lease in [lease for lease in leases if lease.draining or rng.random() < 0.005]:
            leases.remove(lease)
        waiting += [made.job(round(now_s * US)) for _ in begun]
    return Figures(ours=quantiles(ours, n=20)[-1], reference=quantiles(sorting, n=20)[-1])


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, without the garbage of whoever came before: a collection takes longer than sorting."""
    gc.collect()
    gc.disable()
    try:
        began = perf_counter()
        found = call()
        return (perf_counter() - began) * 1e3, found
    finally:
        gc.enable()


class _Jobs:
    def __init__(self, rng: random.Random) -> None:
        self._rng, self._count = rng, 0

    def job(self, now_us: int) -> Job:
        self._count += 1
        least, count = self._rng.choice(SHAPES)
        return Job(
            id=f"j{self._count:06}",
            tenant=f"t{self._rng.randrange(TENANTS):02}",
            pool="gpu",
            submitted_us=now_us + self._count,
            each=(("CPU", 4.0), ("GPU", 1.0)),
            least=least,
            count=count,
            priority=self._rng.choice([PRIORITIES["normal"], PRIORITIES["explore"], PRIORITIES["explore"]]),
            preemptible=self._rng.random() < 0.9,
        )
