"""Where time comes from. Everything else takes a Clock, so that any moment can be replayed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

US_PER_S = 1_000_000


class Clock(Protocol):
    """Wall time and elapsed time. Thread-safe."""

    def now_us(self) -> int:
        """Wall time: microseconds since the epoch, UTC."""

    def elapsed_s(self) -> float:
        """Seconds since an arbitrary start; never goes back."""


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def elapsed_s(self) -> float:
        return time.perf_counter()


def iso(us: int) -> str:
    """Microseconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(us / US_PER_S, tz=UTC).isoformat()
