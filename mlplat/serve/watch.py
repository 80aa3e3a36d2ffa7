"""Watches over the objectives of what is served: a look ten times a second, a notice when a breach begins and when it ends,
and what Prometheus is told."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlplat.clock import Clock
from mlplat.notify import Message
from mlplat.serve.objective import WINDOW_S, Change, Objective, Watch

EACH_S = 0.1
_log = logging.getLogger(__name__)

Tell = Callable[[Message], Sequence[str]]
"""Takes a message to all that are to be told, on a thread, and returns why it did not reach some of them."""


class Watches:
    """By the name of an endpoint. For one event loop, which never waits for whoever is told."""

    def __init__(self, clock: Clock, tell: Tell) -> None:
        self._clock, self._tell = clock, tell
        self._watches: dict[str, Watch] = {}
        self._notices: Counter[tuple[str, str]] = Counter()
        self._telling: set[asyncio.Task[None]] = set()
        self._lag_us = 0

    def follow(self, objectives: Mapping[str, Objective | None]) -> None:
        """From now on these. Whose objective stays keeps what was counted."""
        before, self._watches = self._watches, {}
        for name, objective in objectives.items():
            if objective is not None:
                known = before.get(name)
                same = known is not None and known.objective == objective
                self._watches[name] = known if known is not None and same else Watch(objective)

    def answered(self, name: str, latency_us: int) -> None:
        """What a request waited before this process got round to it cannot be seen; it is about what the loop is behind."""
        watch = self._watches.get(name)
        if watch is not None:
            watch.answered(latency_us + self._lag_us)

    def failed(self, name: str) -> None:
        watch = self._watches.get(name)
        if watch is not None:
            watch.failed()

    async def run(self) -> None:
        """For ever."""
        while True:
            began_s = self._clock.elapsed_s()
            await asyncio.sleep(EACH_S)
            now_s = self._clock.elapsed_s()
            self._lag_us = max(0, int((now_s - began_s - EACH_S) * 1e6))
            self.tick(now_s)

    def tick(self, now_s: float) -> None:
        for name, watch in self._watches.items():
            change = watch.tick(now_s)
            if change is not None:
                message = message_of(name, watch.objective, change)
                _log.warning("%s. %s", message.subject, message.text.replace("\n", " "))
                task = asyncio.get_running_loop().create_task(self._notice(message))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    def collect(self) -> Iterator[Metric]:
        target = GaugeMetricFamily(
            "mlplat_objective_target",
            "The share of requests that are to be answered within the objective's time.",
            labels=("endpoint", "objective"),
        )
        within = GaugeMetricFamily(
            "mlplat_objective_within", f"The share that was, of the last {WINDOW_S} s.", labels=("endpoint",)
        )
        breached = GaugeMetricFamily("mlplat_objective_breached", "1 while it is breached.", labels=("endpoint",))
        notices = CounterMetricFamily(
            "mlplat_objective_notices", "Notices, by whether everybody got them.", labels=("endpoint", "result")
        )
        for name, watch in self._watches.items():
            target.add_metric((name, str(watch.objective)), float(watch.objective.percent) / 100)
            if watch.window.requests:
                within.add_metric((name,), watch.window.within)
            breached.add_metric((name,), watch.state == "breached")
        for labels, count in self._notices.items():
            notices.add_metric(labels, count)
        yield from (target, within, breached, notices)

    async def _notice(self, message: Message) -> None:
        try:
            failures = await asyncio.to_thread(self._tell, message)
        except Exception as error:  # noqa: BLE001 - nobody is told, and nothing else happens
            failures = [f"nobody was notified: {type(error).__name__}"]
        for failure in failures:
            _log.error("%s: %s", message.subject, failure)
        self._notices[message.name, "failed" if failures else "delivered"] += 1


def message_of(name: str, objective: Objective, change: Change) -> Message:
    window = change.window
    seen = (
        f"In the last {WINDOW_S} s {window.within:.1%} of {window.requests} requests were answered within "
        f"{objective.limit_us / 1_000:g} ms, and {window.failed} failed. The objective is {float(objective.percent):g}%."
    )
    begun = (
        "Next: look at what changed (platform.arms, /metrics); take a change back with platform.rollback, or give the "
        'model more processes with serve(..., compute="cpu:1-4"). The end of the breach is told too.'
    )
    return Message(
        subject=f"mlplat: {name!r} {'breaches' if change.breached else 'keeps'} its objective {objective}"
        + ("" if change.breached else " again"),
        text=f"{seen}\n{begun if change.breached else f'The breach lasted {change.lasted_s:.0f} s.'}",
        event="breached" if change.breached else "recovered",
        name=name,
        facts={
            "objective": str(objective),
            "requests": window.requests,
            "within": window.within,
            "failed": window.failed,
            **({} if change.breached else {"lasted_s": change.lasted_s}),
        },
    )
