"""What the provider does with machines when clouds fail, heads are killed and money runs out. The clouds are made up; the
provider, its router and its ledger are those of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from benchmarks._burst.simulated import config
from benchmarks._figures import Figures, Scene
from mlplat.cluster.hosts import Hosts
from mlplat.cluster.ledger import MachineLedger
from mlplat.cluster.router import OWN, SETTLE_S, Router
from mlplat.cluster.site import Site
from mlplat.cluster.spec import parse
from mlplat.errors import Unavailable
from mlplat.testing.clock import ManualClock
from mlplat.testing.cloud import MadeUpCloud

WORKER = {"ray-node-type": "worker"}
FAULTS = ["", "none", "fewer", "throttled", "lost", "lost, made"]


class _Killed(BaseException): ...


class _Head:
    """What outlives heads, and one that may be started again."""

    def __init__(self, folder: Path, **budget: float) -> None:
        folder.mkdir()
        self.spec = parse(config({}, str(folder / "machines.db"), **budget))
        self.kind = self.spec.types["cloud.gpu"]
        self.clock, self.cloud = ManualClock(datetime(2026, 6, 15, 12, tzinfo=UTC)), MadeUpCloud()
        self._launches = count()
        self.ledger = MachineLedger(self.spec.ledger, self.spec.cluster)
        self.router = self.start()

    def start(self) -> Router:
        self.ledger.close()
        self.ledger = MachineLedger(self.spec.ledger, self.spec.cluster)
        sites: Mapping[str, Site] = {"cloud": self.cloud, OWN: Hosts({}, lambda host: True, self.clock)}
        self.router = Router(
            self.spec.cluster,
            self.spec.budget,
            sites,
            self.ledger,
            self.clock,
            lambda: f"launch-{next(self._launches)}",
            lambda said: None,
        )
        return self.router


def leaked(scene: Scene) -> Figures:
    """Launches that fail in every way, and heads that are killed before and after whatever a cloud does: what is there at the end
    and nobody knows of, and what is written down and is not there."""
    launches, draw = scene.size(1_000, 40), Random(8)
    head = _Head(scene.folder / "leaked")
    kills = failed = 0

    def hook(where: str) -> None:
        if draw.random() < 0.08:
            raise _Killed(where)

    head.cloud.hook = hook
    for number in range(launches):
        head.cloud.faults.clear()
        head.cloud.faults.extend(draw.choices(FAULTS, [2, 1, 1, 1, 1, 1], k=3))
        head.cloud.away, head.cloud.hides = draw.random() < 0.05, draw.random() < 0.1
        there = sorted(head.cloud.there())
        try:
            failed += head.router.create(head.kind, WORKER, draw.randint(1, 4)).missing > 0
            if len(there) > 20:
                head.router.terminate(draw.sample(there, 15), lambda tags: False)
            if number % 3 == 0:
                head.router.refresh()
        except Unavailable:
            pass
        except _Killed:
            kills += 1
            head.start()
        head.cloud.show()
        head.clock.advance(timedelta(seconds=draw.choice([1, 5, 30, 200])))
    head.cloud.away, head.cloud.hides, head.cloud.hook = False, False, lambda where: None
    head.start().refresh()
    head.clock.advance(timedelta(seconds=SETTLE_S + 1))
    head.router.refresh()
    known = {row.machine for row in head.ledger.open()}
    wrong = known ^ head.cloud.there()
    head.ledger.close()
    note = f"{launches} launches, {failed} not wholly done, {kills} heads killed, {len(head.cloud.made)} machines made"
    return Figures(ours=float(len(wrong)), note=note)


def over_budget(scene: Scene) -> Figures:
    """A cluster that wants more than there is money for, for two days, and whose head is restarted all the time: the most that
    was spent beyond the cap of a day or an hour, in machines of the largest launch."""
    draw = Random(9)
    head = _Head(scene.folder / "budget", per_hour=5.0, per_day=60.0)
    offer = head.kind.offers[0]
    began: dict[str, datetime] = {}
    spent: list[tuple[datetime, datetime]] = []
    for _ in range(scene.size(2_000, 60)):
        head.router.create(head.kind, WORKER, draw.randint(1, 4))
        for name in head.cloud.there() - began.keys():
            began[name] = _now(head)
        if draw.random() < 0.3:
            gone = draw.sample(sorted(head.cloud.there()), min(2, len(head.cloud.there())))
            head.router.terminate(gone, lambda tags: False)
            spent += [(began[name], _now(head)) for name in gone]
        if head.router.spent():  # then the queue has its work stopped, and the autoscaler gives the machines back
            gone = sorted(head.cloud.there())
            head.router.terminate(gone, lambda tags: False)
            spent += [(began[name], _now(head)) for name in gone]
        if draw.random() < 0.2:
            head.start().refresh()
        head.clock.advance(timedelta(seconds=draw.choice([5, 60, 300])))
    spent += [(began[name], _now(head)) for name in head.cloud.there()]
    head.ledger.close()
    worst = max(
        _worst(spent, offer.price, timedelta(hours=1)) - 5.0, _worst(spent, offer.price, timedelta(days=1)) - 60.0
    )
    return Figures(ours=max(0.0, worst) / (4 * offer.price), note=f"{len(spent)} machines bought")


def _now(head: _Head) -> datetime:
    return datetime.fromtimestamp(head.clock.now_us() / 1e6, tz=UTC)


def _worst(spent: list[tuple[datetime, datetime]], price: float, window: timedelta) -> float:
    """The most in any hour or day of UTC."""
    zero = datetime(2026, 6, 15, tzinfo=UTC)
    sums: dict[int, float] = {}
    for begin, end in spent:
        at = begin
        while at < end:
            number = int((at - zero) / window)
            until = min(end, zero + window * (number + 1))
            sums[number] = sums.get(number, 0.0) + (until - at) / timedelta(hours=1) * price
            at = until
    return max(sums.values(), default=0.0)


def spot_exhausted(scene: Scene) -> Figures:
    """No zone has spot machines: how often Ray must ask the provider until there is one on demand."""
    head = _Head(scene.folder / "spot")
    head.cloud.capacity = {"a": 0, "b": 0}
    calls, names = 0, ()
    while not names and calls < 100:
        calls += 1
        names = head.router.create(head.kind, WORKER, 1).names
    offers: list[Any] = [row.offer for row in head.ledger.open()]
    head.ledger.close()
    return Figures(ours=float(calls), wrong="" if offers == ["on demand"] else f"it bought {offers}")
