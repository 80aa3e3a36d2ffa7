"""A queue whose own machines are two of four GPUs, and others that can be bought: what the tests of bursting share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlplat.jobs.burst import Bursting
from mlplat.jobs.cloud import Cloud, Kind
from mlplat.jobs.job import Job, Node, Pool
from mlplat.jobs.record import HOLDS, Command, Record
from mlplat.jobs.rules import Rules
from mlplat.jobs.turn import Seen, Turn, turn
from mlplat.jobs.usage import Usage

US, GB = 1_000_000, 10**9
NOW_US = 1_000_000 * US
OWN = tuple(Node(id=f"h{i}", total={"GPU": 4.0}, labels={"site": "onprem"}) for i in range(2))
MINE = Kind(name="onprem.gpu", total={"GPU": 4.0}, labels={"site": "onprem"}, most=2)


def job(name: str, gpus: int, *, ago_s: float = 0.0, gb: float = 0.0, at: str = "onprem", **given: Any) -> Job:
    """It was submitted so long ago, and reads so much from a place."""
    return Job(
        id=name,
        tenant="a",
        pool="default",
        submitted_us=NOW_US - round(ago_s * US),
        each=(("GPU", 1.0),),
        count=gpus,
        least=gpus,
        data=((at, round(gb * GB)),) if gb else (),
        **given,
    )


def queued(name: str, gpus: int, **given: Any) -> Record:
    return Record(job=job(name, gpus, **given), name=name, command=Command(arguments=(), folder=""))


def running(name: str, placed: Mapping[str, int], *, since_s: float = 600.0, **given: Any) -> Record:
    one = queued(name, sum(placed.values()), ago_s=since_s, **given)
    return one.given(tuple(placed.items()), backfill=False, now_us=NOW_US - round(since_s * US)).runs()


FULL = running("full", {"h0": 4, "h1": 4}, preemptible=False)


def bought(kind: Kind, count: int) -> tuple[Node, ...]:
    return tuple(Node(id=f"{kind.name}-{i}", total=kind.total, labels=kind.labels) for i in range(count))


def turned(
    *records: Record,
    cloud: Cloud,
    machines: Sequence[Node] = (),
    own: Sequence[Node] = OWN,
    rules: Rules | None = None,
) -> Turn:
    """A turn of the queue, in which own machines and these bought ones are there."""
    held = [record for record in records if record.state in HOLDS]
    seen = Seen(
        pools=(Pool(name="default", nodes=(*own, *machines)),),
        groups={record.group: "ready" for record in held},
        runs={record.group: None for record in held},
        cloud=cloud,
    )
    return turn({record.job.id: record for record in records}, seen, rules or Rules(), Usage(), {}, now_us=NOW_US)


def burst(*records: Record, **given: Any) -> Bursting:
    found = turned(*records, **given).burst
    assert found is not None
    return found
