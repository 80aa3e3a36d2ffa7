"""Jobs, and what they held, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from mlplat.clock import US_PER_S
from mlplat.jobs.demand import Demand
from mlplat.jobs.job import PRIORITIES
from mlplat.jobs.record import Held, Record

_WORDS = {value: name for name, value in PRIORITIES.items()}
_UTC = pl.Datetime("us", "UTC")
_JOBS: dict[str, Any] = {
    **dict.fromkeys(("id", "name", "tenant", "priority", "state", "compute", "pool"), pl.String),
    **dict.fromkeys(("submitted", "started", "ended"), _UTC),
    "leases": pl.Int64,
    "reason": pl.String,
}
_HELD: dict[str, Any] = {
    **dict.fromkeys(("job", "name", "tenant", "pool"), pl.String),
    "workers": pl.Int64,
    "began": _UTC,
    "ended": _UTC,
    "stopped": pl.Boolean,
    "reason": pl.String,
}


def jobs(records: Iterable[Record], waits: Mapping[str, str]) -> pl.DataFrame:
    return pl.DataFrame([row(record, waits) for record in records], schema=_JOBS)


def held(spans: Iterable[Held]) -> pl.DataFrame:
    return pl.DataFrame([_span(one) for one in spans], schema=_HELD)


def usage(spans: Iterable[Held]) -> pl.DataFrame:
    rows = [
        {"tenant": one.tenant, "resource": name, "hours": hours} for one in spans for name, hours in one.hours().items()
    ]
    schema = {"tenant": pl.String, "resource": pl.String, "hours": pl.Float64}
    return pl.DataFrame(rows, schema=schema).group_by("tenant", "resource").sum().sort("tenant", "resource")


def row(record: Record, waits: Mapping[str, str]) -> dict[str, Any]:
    job = record.job
    reason = record.reason
    if record.state == "queued":
        reason = "; before that it was ".join(filter(None, (waits.get(job.group), record.reason)))
    return {
        "id": job.id,
        "name": record.name,
        "tenant": job.tenant,
        "priority": _WORDS.get(job.priority, str(job.priority)),
        "state": record.state,
        "compute": str(Demand(count=job.count, least=job.least, resources=job.each, labels=job.labels)),
        "pool": job.pool,
        "submitted": time(job.submitted_us),
        "started": time(record.started_us),
        "ended": time(record.ended_us),
        "leases": record.lease,
        "reason": reason,
    }


def time(us: int | None) -> datetime | None:
    return datetime.fromtimestamp(us / US_PER_S, tz=UTC) if us else None


def _span(held: Held) -> dict[str, Any]:
    return {
        "job": held.job,
        "name": held.name,
        "tenant": held.tenant,
        "pool": held.pool,
        "workers": sum(count for _, count in held.placed),
        "began": time(held.began_us),
        "ended": time(held.ended_us),
        "stopped": held.stopped,
        "reason": held.reason,
    }
