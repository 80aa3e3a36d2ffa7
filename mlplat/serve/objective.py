"""A latency objective such as "p99 < 50ms", and whether the requests of the last seconds kept it. Pure: time is an argument."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from mlplat.errors import InvalidInput

WINDOW_S = 10
"""A breach is one of the requests of so many seconds."""
CALM_S = 30.0
"""A breach is over when no window was beyond the objective for so long."""
LEAST_OVER = 3
"""Fewer slow requests than these begin no breach: of few requests, one would be more than a hundredth."""
_SYNTAX = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)<(\d{1,5}(?:\.\d{1,3})?)(ms|s)")
_UNIT_US = {"ms": 1_000, "s": 1_000_000}
MAX_US = 60_000_000

State = Literal["healthy", "breached", "no data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """At least `percent` of the requests are answered, and within `limit_us` microseconds."""

    percent: Fraction
    limit_us: int

    @classmethod
    def parse(cls, text: str) -> Objective:
        """`"p99 < 50ms"`, `"p99.9 < 1.5s"`. `InvalidInput` for anything else."""
        match = _SYNTAX.fullmatch("".join(text.split()).lower()) if isinstance(text, str) else None
        percent = Fraction(match[1]) if match else Fraction(0)
        limit_us = round(Fraction(match[2]) * _UNIT_US[match[3]]) if match else 0
        if not percent or not 0 < limit_us <= MAX_US:
            raise InvalidInput(
                f"objective={text!r} is not one. Write the percentile and the time of an answer in ms or s, at most 60s, as in "
                '"p99 < 50ms": of a hundred requests, 99 are answered within 50 ms'
            )
        return cls(percent=percent, limit_us=limit_us)

    def kept(self, requests: int, over: int) -> bool:
        """By so many requests, of which `over` were slower, or failed."""
        return (requests - over) * 100 >= self.percent * requests

    def __str__(self) -> str:
        return f"p{float(self.percent):g} < {self.limit_us / 1_000:.9g}ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Requests of the last seconds; those `over` the limit were slower, or `failed`."""

    requests: int = 0
    over: int = 0
    failed: int = 0

    @property
    def within(self) -> float:
        """The share that was answered, and in time. Not of none."""
        return (self.requests - self.over) / self.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A breach begins, or ends after `lasted_s` seconds."""

    breached: bool
    window: Window
    lasted_s: float = 0.0


class Watch:
    """The requests of one endpoint beside its objective. `tick` is to be called about once a second, or more often, with
    seconds that never go back; what came since the last time is of its second. Not thread-safe."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.window = Window()
        self._new = [0, 0, 0]
        self._slots: deque[tuple[int, int, int, int]] = deque()
        self._since_s: float | None = None
        self._calm_s: float | None = None

    def answered(self, latency_us: int) -> None:
        self._new[0] += 1
        if latency_us > self.objective.limit_us:
            self._new[1] += 1

    def failed(self) -> None:
        """A request that was not answered by a fault of ours, or refused because there was too much to do."""
        for i in range(3):
            self._new[i] += 1

    @property
    def state(self) -> State:
        if self._since_s is not None:
            return "breached"
        return "healthy" if self.window.requests else "no data"

    def tick(self, now_s: float) -> Change | None:
        """What changed. A breach that nobody asks in goes on: nobody knows."""
        self.window = self._moved(int(now_s))
        requests, over = self.window.requests, self.window.over
        kept = self.objective.kept(requests, over)
        if self._since_s is None:
            if kept or over < LEAST_OVER:
                return None
            self._since_s, self._calm_s = now_s, None
            return Change(breached=True, window=self.window)
        if not kept:
            self._calm_s = None
        elif requests and self._calm_s is None:
            self._calm_s = now_s
        if not requests or self._calm_s is None or now_s - self._calm_s < CALM_S:
            return None
        lasted_s, self._since_s = now_s - self._since_s, None
        return Change(breached=False, window=self.window, lasted_s=lasted_s)

    def _moved(self, second: int) -> Window:
        """The window that ends with this second. There are at most WINDOW_S slots."""
        new, self._new = self._new, [0, 0, 0]
        if self._slots and self._slots[-1][0] == second:
            new = [a + b for a, b in zip(new, self._slots.pop()[1:], strict=True)]
        self._slots.append((second, new[0], new[1], new[2]))
        while self._slots[0][0] <= second - WINDOW_S:
            self._slots.popleft()
        _, requests, over, failed = zip(*self._slots, strict=True)
        return Window(requests=sum(requests), over=sum(over), failed=sum(failed))
