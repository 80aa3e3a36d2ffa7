"""When jobs that wait may start: the plan is played on, with what jobs like them have taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from mlplat.clock import US_PER_S
from mlplat.jobs.job import Lease, Pool
from mlplat.jobs.record import HOLDS, Held, Record
from mlplat.jobs.rules import Rules
from mlplat.jobs.simulation import Work, simulate
from mlplat.jobs.usage import Usage

MOST = 200
"""Jobs that are played on. For those further back in the queue there is no estimate."""


PERIOD_S = 60.0


def starts(
    records: Sequence[Record],
    held: Iterable[Held],
    pools: Sequence[Pool],
    rules: Rules,
    usage: Usage,
    *,
    now_us: int,
) -> dict[str, int]:
    """Microseconds UTC by the id of a job that waits. What one will take is the median of those of its tenant and name that have
    ended, else of its tenant, else of all; one that runs goes on for at least as long again as it has. None where nothing has
    ended yet: then nothing is known."""
    taken = _taken(held)
    if not taken:
        return {}
    waiting = [one for one in records if one.state == "queued"][:MOST]
    running = [one for one in records if one.state in HOLDS]
    left = [(one.held(), _left(one.held(), _expected(taken, one), now_us)) for one in running]
    works = [Work(job=one.job, bundle_s=_expected(taken, one)) for one in waiting]
    spans = simulate(
        works,
        pools,
        rules.tenants,
        rules.policy,
        usage=usage,
        running=left,
        from_us=now_us,
        grace_s=rules.grace_s,
        period_s=PERIOD_S,
    )
    found: dict[str, int] = {}
    for span in spans:
        if span.began_us >= now_us:
            found[span.job.id] = min(span.began_us, found.get(span.job.id, span.began_us))
    return {one.job.id: found[one.job.id] for one in waiting if one.job.id in found}


def _taken(held: Iterable[Held]) -> Mapping[tuple[str, ...], list[float]]:
    """Bundle-seconds of jobs that ended by themselves, by tenant and name, by tenant, and of all. A job may have had several
    leases."""
    whole: dict[str, float] = defaultdict(float)
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for one in held:
        whole[one.job] += (one.ended_us - one.began_us) / US_PER_S * sum(count for _, count in one.placed)
        if not one.stopped:
            for key in ((one.tenant, one.name), (one.tenant,), ()):
                found[key].append(whole[one.job])
    return found


def _expected(taken: Mapping[tuple[str, ...], list[float]], record: Record) -> float:
    tenant = record.job.tenant
    return median(next(taken[key] for key in ((tenant, record.name), (tenant,), ()) if key in taken))


def _left(lease: Lease, expected_s: float, now_us: int) -> float:
    had_s = max(0.0, (now_us - lease.started_us) / US_PER_S) * lease.size
    return max(expected_s - had_s, had_s)
