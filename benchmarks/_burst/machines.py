"""What the provider does with machines when clouds fail, heads are killed and money runs out. The clouds are made up; the
provider, its router and its ledger are those of a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from benchmarks._figures import Figures, Scene
from mlplat.cluster.router import SETTLE_S
from mlplat.errors import Unavailable
from mlplat.testing.lab import Lab

CLOUD = "cloud.gpu"
WORKER = {"ray-node-type": "worker"}
FAULTS = ["", "none", "fewer", "throttled", "lost", "lost, made"]


class _Killed(BaseException): ...


def leaked(scene: Scene) -> Figures:
    """Launches that fail in every way, and heads that are killed before and after whatever a cloud does: what is there at the end
    and nobody knows of, and what is written down and is not there."""
    launches, draw = scene.size(1_000, 40), Random(8)
    head = Lab(scene.folder)
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
            failed += head.router.create(head.spec.types[CLOUD], WORKER, draw.randint(1, 4)).missing > 0
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
    head = Lab(scene.folder, per_hour=5.0, per_day=60.0)
    offer = head.spec.types[CLOUD].offers[0]
    began: dict[str, datetime] = {}
    spent: list[tuple[datetime, datetime]] = []
    for _ in range(scene.size(2_000, 60)):
        head.router.create(head.spec.types[CLOUD], WORKER, draw.randint(1, 4))
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


def _now(head: Lab) -> datetime:
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
    head = Lab(scene.folder)
    head.cloud.capacity = {"a": 0, "b": 0}
    calls, names = 0, ()
    while not names and calls < 100:
        calls += 1
        names = head.router.create(head.spec.types[CLOUD], WORKER, 1).names
    offers: list[Any] = [row.offer for row in head.ledger.open()]
    head.ledger.close()
    return Figures(ours=float(calls), wrong="" if offers == ["on demand"] else f"it bought {offers}")
