"""What the policy of the queue does, in pictures.

`python -m examples.policies FOLDER` draws those of docs/explanation/fair-share.md. Nothing runs: the plan that a cluster is run
by is played on made-up work, so a change of the rules can be tried before it is made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from mlplat.jobs import Policy, Tenant
from mlplat.jobs.job import PRIORITIES, Job, Node, Pool
from mlplat.jobs.picture import draw
from mlplat.jobs.simulation import Span, Work, simulate

US = 1_000_000
POOLS = [Pool(name="gpu", nodes=(Node(id="n0", total={"GPU": 4.0}), Node(id="n1", total={"GPU": 4.0})))]


def works(tenant: str, count: int, seconds: float, *, at_s: float = 0.0, wide: int = 1, **given: Any) -> list[Work]:
    """Jobs of one tenant that come at the same time."""
    named = {"pool": "gpu", "submitted_us": round(at_s * US), "each": (("GPU", 1.0),), "least": wide, "count": wide}
    jobs = [Job(id=f"{tenant}.{at_s:g}.{i:03}", tenant=tenant, **named, **given) for i in range(count)]
    return [Work(job=job, bundle_s=seconds * wide) for job in jobs]


def played(work: Iterable[Work], until_s: float, tenants: Mapping[str, Tenant] | None = None) -> pl.DataFrame:
    spans = simulate(work, POOLS, tenants or {}, Policy(), until_us=round(until_s * US), grace_s=5.0)
    return pl.DataFrame([row(span) for span in spans])


def row(span: Span) -> dict[str, Any]:
    times = {
        name: datetime.fromtimestamp(us / US, tz=UTC)
        for name, us in (("began", span.began_us), ("ended", span.ended_us))
    }
    return {"tenant": span.job.tenant, "workers": span.size, **times}


def pictures(folder: Path) -> dict[str, pl.DataFrame]:
    """By their files: what was held in each."""
    alone = works("ann", 40, 240)
    later = [*works("ben", 40, 240, at_s=300), *works("cleo", 40, 240, at_s=900)]
    heavy = {"ann": Tenant(name="ann", weight=2.0)}
    quota = {"cleo": Tenant(name="cleo", quota={"gpu": {"GPU": 3}})}
    urgent = works("production", 1, 300, at_s=600, wide=6, priority=PRIORITIES["production"])
    idle = works("search", 200, 60, priority=PRIORITIES["idle"])
    found = {
        "fair.svg": ("who comes later has an equal share after the minimum run time", played([*alone, *later], 1_800)),
        "weights.svg": ("ann has twice the weight", played([*alone, *later], 1_800, heavy)),
        "quota.svg": (
            "cleo has a quota of 3, which others borrow until she comes",
            played([*alone, *later], 1_800, quota),
        ),
        "production.svg": ("production needs six at once", played([*alone, *works("ben", 40, 240), *urgent], 1_800)),
        "idle.svg": ("a search takes what nobody else wants", played([*idle, *works("ann", 8, 300, at_s=300)], 1_200)),
    }
    for name, (title, held) in found.items():
        draw(held, folder / name, title=title)
    return {name: held for name, (_, held) in found.items()}


if __name__ == "__main__":
    pictures(Path(sys.argv[1]))
