"""What a job's data cost it on bought machines: pure functions.

Clouds take money for each GB that leaves a place. A job pays that once, whenever it begins on bought machines that are not where
its data are; machines are where their labels `site` and `region` say. On machines of a kind k a job costs, for H hours,

    C(k) = E(k) + P(k) H

with E the egress and P the price per hour of as many machines as it needs. Nobody knows how long a job takes: H is
`Cloud.wait_s`, for which a job as large as all own machines waits: the operator's own word for how long a job is worth waiting.

Without data the job would cost min P(k) H. What it costs more on k, over min P(k), is for how many hours its machines could be
had for the money that its data cost: for so long it is worth waiting for own machines instead. Where there is one kind that is
E / P hours. The least of C grows with the data, and so does how long is waited, also where more data make another kind cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlplat.jobs.cloud import SITE, Cloud, Kind
from mlplat.jobs.demand import suits
from mlplat.jobs.job import Job
from mlplat.jobs.rules import Rules

REGION = "region"
GB = 1e9
_HOUR_S = 3_600.0
NEVER_S = 10 * 365 * 24 * _HOUR_S
"""Ten years: machines that cost nothing are never worth the egress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A kind of machines that would do for a job: what its data cost to bring there, what it costs in all, and for how many
    seconds its machines could be had for what its data cost."""

    kind: str
    egress: float
    cost: float
    wait_s: float


def egress(prices: Mapping[str, float], job: Job, labels: Mapping[str, str]) -> float:
    """What it costs to bring a job's data to a machine with such labels. A place without a price is as dear as the dearest."""
    here = {labels.get(SITE), labels.get(REGION)}
    dearest = max(prices.values(), default=0.0)
    return sum(size / GB * prices.get(place, dearest) for place, size in job.data if place not in here)


def ways(cloud: Cloud, job: Job) -> list[Way]:
    """Kinds of which one does for all of a job, the cheapest first. None for a job without data, or if no place has a price."""
    if not job.data or not cloud.egress:
        return []
    needs = [(kind, _machines(kind, job)) for kind in cloud.kinds]
    found = [
        (kind.name, egress(cloud.egress, job, kind.labels), kind.price * machines)
        for kind, machines in needs
        if machines <= min(kind.most, cloud.most)
    ]
    hours, least = cloud.wait_s / _HOUR_S, min((price for _, _, price in found), default=0.0)
    found.sort(key=lambda one: (one[1] + one[2] * hours, one[2]))
    return [
        Way(
            kind=name,
            egress=brings,
            cost=brings + price * hours,
            wait_s=_hours(brings + (price - least) * hours, least),
        )
        for name, brings, price in found
    ]


def burden(cloud: Cloud, job: Job) -> float:
    """How many times as much as without its data a job costs on bought machines."""
    more_s = next((way.wait_s for way in ways(cloud, job)), 0.0)
    if more_s == 0.0:
        return 1.0
    return 1.0 + more_s / cloud.wait_s if cloud.wait_s else math.inf


def by_pool(cloud: Cloud, rules: Rules) -> dict[str, Cloud]:
    """With the kinds of each pool."""
    labels = list(rules.pools.items())
    pools = {
        kind.name: next((n for n, has in labels if has.items() <= kind.labels.items()), "") for kind in cloud.kinds
    }
    return {
        name: replace(cloud, kinds=tuple(kind for kind in cloud.kinds if pools[kind.name] == name))
        for name in rules.pools
    }


def _hours(money: float, per_hour: float) -> float:
    """In seconds."""
    if money <= 0:
        return 0.0
    return min(NEVER_S, money / per_hour * _HOUR_S) if per_hour else NEVER_S


def _machines(kind: Kind, job: Job) -> float:
    """How many it needs; infinity if none would do."""
    if not suits(kind.labels, dict(job.labels)):
        return math.inf
    each = min(int(kind.total.get(name, 0.0) / amount + 1e-9) for name, amount in job.each)
    return math.ceil(job.least / each) if each else math.inf
