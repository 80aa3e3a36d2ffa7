"""Work that comes to a simulated cluster."""

from __future__ import annotations

from mlplat.cluster.world import Arrival
from mlplat.jobs.job import Job

US = 1_000_000


def arrival(name: str, gpus: int = 1, *, tenant: str = "a", at_s: float = 0.0, work_s: float = 3_600.0) -> Arrival:
    """So many bundles of a GPU each."""
    job = Job(
        id=name,
        tenant=tenant,
        pool="default",
        submitted_us=round(at_s * US),
        each=(("CPU", 1.0), ("GPU", 1.0)),
        count=gpus,
        least=gpus,
    )
    return Arrival(job=job, work_s=work_s)
