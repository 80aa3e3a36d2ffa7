"""Notices of breaches: once at the begin and the end, from the loop and never holding it up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlplat.clock import SystemClock
from mlplat.notify import Message
from mlplat.serve.log import PredictionLog
from mlplat.serve.metrics import Metrics
from mlplat.serve.objective import Objective
from mlplat.serve.watch import Watches
from tests.serve.rig import StoppedClock
from tests.serve.test_metrics import samples

P99 = Objective.parse("p99 < 50ms")


class Told:
    """Keeps what it is to tell; `failures` is what it says of it."""

    def __init__(self, *failures: str, error: Exception | None = None) -> None:
        self.messages: list[Message] = []
        self.failures, self.error = failures, error

    def __call__(self, message: Message) -> Sequence[str]:
        self.messages.append(message)
        if self.error is not None:
            raise self.error
        return self.failures


class Jumping(SystemClock):
    ahead_s = 0.0

    def elapsed_s(self) -> float:
        return super().elapsed_s() + self.ahead_s


async def ticked(watches: Watches, now_s: float) -> None:
    watches.tick(now_s)
    while watches._telling:
        await asyncio.wait(watches._telling)


def scrape(metrics: Metrics) -> dict[str, float]:
    found = samples(metrics.text().decode())
    return {
        f"{name}{sorted(labels)}": value
        for (name, labels), value in found.items()
        if name.startswith("mlplat_objective") and not name.endswith("_created")
    }


def test_a_breach_and_its_end_are_told_and_shown(tmp_path: Path) -> None:
    told = Told()
    watches = Watches(StoppedClock(), told)
    metrics = Metrics(PredictionLog(tmp_path), watches)

    async def go() -> None:
        watches.follow({"late": P99, "other": None})
        for _ in range(6):
            watches.answered("late", 1_000)
            watches.answered("late", 90_000)
            watches.answered("other", 90_000)
        metrics.refused("late", 500)
        metrics.refused("late", 503)
        metrics.refused("late", 422)
        await ticked(watches, 0.0)
        shown = scrape(metrics)
        assert shown["mlplat_objective_target[('endpoint', 'late'), ('objective', 'p99 < 50ms')]"] == 0.99
        assert shown["mlplat_objective_within[('endpoint', 'late')]"] == pytest.approx(6 / 14)
        assert shown["mlplat_objective_breached[('endpoint', 'late')]"] == 1
        for second in range(1, 60):
            watches.answered("late", 1_000)
            await ticked(watches, float(second))
        shown = scrape(metrics)
        assert shown["mlplat_objective_breached[('endpoint', 'late')]"] == 0
        assert shown["mlplat_objective_notices_total[('endpoint', 'late'), ('result', 'delivered')]"] == 2

    asyncio.run(go())
    begun, ended = told.messages
    assert (begun.event, begun.name, begun.subject) == (
        "breached",
        "late",
        "mlplat: 'late' breaches its objective p99 < 50ms",
    )
    assert begun.text.startswith(
        "In the last 10 s 42.9% of 14 requests were answered within 50 ms, and 2 failed. The objective is 99%.\nNext: "
    )
    assert dict(begun.facts) == {"objective": "p99 < 50ms", "requests": 14, "within": 6 / 14, "failed": 2}
    assert (ended.event, ended.subject) == ("recovered", "mlplat: 'late' keeps its objective p99 < 50ms again")
    assert ended.text.endswith("The breach lasted 40 s.")


@pytest.mark.parametrize("told", [Told("Slack was not notified: it is away"), Told(error=OSError("s3cret"))])
def test_who_cannot_be_told_is_logged_and_counted_and_nothing_else(
    tmp_path: Path, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    watches = Watches(StoppedClock(), told)
    metrics = Metrics(PredictionLog(tmp_path), watches)

    async def go() -> None:
        watches.follow({"late": P99})
        for _ in range(3):
            watches.failed("late")
        await ticked(watches, 0.0)

    asyncio.run(go())
    assert scrape(metrics)["mlplat_objective_notices_total[('endpoint', 'late'), ('result', 'failed')]"] == 1
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "was not notified" in error or "nobody was notified: OSError" in error
    assert "s3cret" not in error


def test_what_is_counted_stays_while_the_objective_does() -> None:
    told = Told()
    watches = Watches(StoppedClock(), told)

    async def go() -> None:
        watches.follow({"late": P99})
        watches.failed("late")
        watches.failed("late")
        watches.follow({"late": Objective.parse("p99 < 50 ms"), "new": P99})
        watches.failed("late")
        await ticked(watches, 0.0)
        assert len(told.messages) == 1
        watches.follow({"late": Objective.parse("p99 < 60ms")})
        watches.failed("late")
        watches.failed("late")
        await ticked(watches, 1.0)
        watches.follow({})
        watches.failed("late")
        await ticked(watches, 2.0)

    asyncio.run(go())
    assert len(told.messages) == 1


def test_the_loop_does_not_wait_for_who_is_told_and_counts_what_it_is_behind() -> None:
    let_go, begun = threading.Event(), threading.Event()

    def stuck(message: Message) -> Sequence[str]:
        begun.set()
        let_go.wait()
        return []

    async def go() -> None:
        clock = Jumping()
        watches = Watches(clock, stuck)
        watches.follow({"late": Objective.parse("p50 < 50ms")})
        for _ in range(3):
            watches.failed("late")
        running = asyncio.get_running_loop().create_task(watches.run())
        await asyncio.to_thread(begun.wait)
        clock.ahead_s += 0.2  # the loop is behind, and nobody who is told is waited for
        while watches._lag_us < 200_000:
            await asyncio.sleep(0)
        before = watches._watches["late"]._new[1]
        watches.answered("late", 1)
        assert watches._watches["late"]._new[1] == before + 1
        running.cancel()
        let_go.set()
        while watches._telling:
            await asyncio.wait(watches._telling)

    asyncio.run(go())
