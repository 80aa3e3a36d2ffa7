"""Five kinds of load on eight own GPUs, made from seeds: when jobs of one to eight GPUs come, and how long each takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

from mlplat.clock import US_PER_S
from mlplat.cluster.world import Arrival
from mlplat.jobs.job import Job

HOUR_S, DAY_S = 3_600.0, 86_400.0
MOSTLY_SMALL = (0.7, 0.15, 0.1, 0.05)
"""Of jobs of 1, 2, 4 and 8 GPUs, as in Microsoft's Philly trace (Luo et al., Starburst, ATC 2024)."""


def traces(days: float) -> dict[str, list[Arrival]]:
    """By name. Each asks for about as much as the own machines have, so that there is too much at times."""
    return {
        "steady": _trace(1, _steady(Random(1), days, per_h=1.8)),
        "days": _trace(2, _by_day(Random(2), days, per_h=1.8)),
        "sweeps": _trace(3, _sweeps(Random(3), days)),
        "long tail": _trace(4, _steady(Random(4), days, per_h=2.4), spread=1.8, median_s=1_400.0),
        "wide": _trace(5, _steady(Random(5), days, per_h=1.0), mix=(0.4, 0.2, 0.25, 0.15)),
    }


def _trace(
    seed: int,
    times: Iterator[float],
    *,
    spread: float = 1.2,
    median_s: float = 4_000.0,
    mix: tuple[float, ...] = MOSTLY_SMALL,
) -> list[Arrival]:
    rng, found = Random(seed * 1_000), []
    for number, at_s in enumerate(times):
        gpus = rng.choices([1, 2, 4, 8], mix)[0]
        job = Job(
            id=f"job-{number:04}",
            tenant="team",
            pool="default",
            submitted_us=round(at_s * US_PER_S),
            each=(("CPU", 1.0), ("GPU", 1.0)),
            count=gpus,
            least=gpus,
        )
        found.append(Arrival(job=job, work_s=min(DAY_S, max(60.0, rng.lognormvariate(math.log(median_s), spread)))))
    return found


def _steady(rng: Random, days: float, per_h: float) -> Iterator[float]:
    at_s = rng.expovariate(per_h / HOUR_S)
    while at_s < days * DAY_S:
        yield at_s
        at_s += rng.expovariate(per_h / HOUR_S)


def _by_day(rng: Random, days: float, per_h: float) -> Iterator[float]:
    """Most by day, hardly any at night."""
    for at_s in _steady(rng, days, per_h * 2):
        if rng.random() < (1 - math.cos(2 * math.pi * at_s / DAY_S)) / 2:
            yield at_s


def _sweeps(rng: Random, days: float) -> Iterator[float]:
    """Ten to twenty at once, every eight hours or so."""
    for at_s in _steady(rng, days, 1 / 8):
        yield from sorted(at_s + rng.uniform(0, 600) for _ in range(rng.randint(10, 20)))
