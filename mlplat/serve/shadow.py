"""Shadows: versions that are shown what others are asked, and whose answers go into the log and to nobody."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass

from mlplat.clock import Clock
from mlplat.serve.answer import Answerer, record_of
from mlplat.serve.dispatch import Ask, Mirror
from mlplat.serve.policy import RefusedFeatures
from mlplat.serve.request import Request
from mlplat.serve.routing import Assignment, position
from mlplat.serve.served import Served

MAX_WAITING = 64
LIMIT_S = 5.0


@dataclass(slots=True)
class ShadowCounts:
    """Requests: `eligible == sent + dropped`; of those sent, `answered`, `failed`, `late` and `refused` ones (by the
    endpoint's policy for features), and some on their way."""

    eligible: int = 0
    sent: int = 0
    dropped: int = 0
    answered: int = 0
    failed: int = 0
    late: int = 0
    refused: int = 0


class Shadows:
    """Never waits and never raises: a shadow that is behind is shown less, and what it is not shown is counted. `offer` is
    called on the loop."""

    def __init__(self, answerer: Answerer, clock: Clock, *, limit_s: float = LIMIT_S, most: int = MAX_WAITING) -> None:
        self._answerer, self._clock, self._limit_s, self._most = answerer, clock, limit_s, most
        self._running: dict[str, set[asyncio.Task[None]]] = {}
        self.counts: dict[tuple[str, str], ShadowCounts] = {}

    def offer(self, served: Served, mirror: Mirror, request: Request, request_id: str, units: Sequence[str]) -> None:
        """Show it, if its units are among those that the shadow is shown."""
        arm, salt = mirror.arm, f"{served.table.salt}/{mirror.arm.name}"
        rows = tuple(row for row in mirror.rows if arm.share >= 1.0 or position(salt, units[row]) < arm.share)
        if not rows:
            return
        counts = self.counts.setdefault((served.name, arm.name), ShadowCounts())
        counts.eligible += 1
        running = self._running.setdefault(f"{served.name}/{arm.name}", set())
        if len(running) >= self._most:
            counts.dropped += 1
            return
        counts.sent += 1
        assigned = (Assignment(arm=arm, propensity=arm.share),) * len(rows)
        ask = Ask(version=arm.version, rows=rows, arms=assigned)
        # In an empty context: Ray Serve cancels what a request began when its caller leaves.
        work = self._show(served, ask, request, request_id, units, counts)
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        running.add(task)
        task.add_done_callback(running.discard)

    async def _show(
        self, served: Served, ask: Ask, request: Request, request_id: str, units: Sequence[str], counts: ShadowCounts
    ) -> None:
        began_s, received_us = self._clock.elapsed_s(), self._clock.now_us()
        try:
            async with asyncio.timeout(self._limit_s):
                part = await self._answerer.part(served.versions[ask.version], ask, request, served.rules)
        except TimeoutError:
            counts.late += 1
        except RefusedFeatures:
            counts.refused += 1
        except Exception:  # noqa: BLE001 - whatever it is, it is the shadow's
            counts.failed += 1
        else:
            counts.answered += 1
            latency_us = int((self._clock.elapsed_s() - began_s) * 1e6)
            own_id = self._answerer.new_id()
            ids = [f"{own_id}-{row}" for row in range(request.rows)]
            self._answerer.log.append(
                record_of(served.name, request_id, ids, units, part, received_us, latency_us, shadow=True)
            )
