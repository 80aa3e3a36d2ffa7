"""A clock that goes when it is told to."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from mlplat.clock import US_PER_S
from mlplat.errors import InvalidInput


class ManualClock:
    """Stands at `now` (with a time zone) until `advance`. Thread-safe."""

    def __init__(self, now: datetime) -> None:
        if now.tzinfo is None:
            raise InvalidInput(f"now={now.isoformat()} has no time zone; say which, as in datetime(..., tzinfo=UTC)")
        self._lock = threading.Lock()
        self._begun_us = self._now_us = round(now.timestamp() * US_PER_S)

    def now_us(self) -> int:
        with self._lock:
            return self._now_us

    def elapsed_s(self) -> float:
        with self._lock:
            return (self._now_us - self._begun_us) / US_PER_S

    def advance(self, by: timedelta) -> None:
        """`by` may not be negative: time never goes back, but as it is `set`."""
        if by < timedelta(0):
            raise InvalidInput(f"a clock cannot be advanced by {by}")
        with self._lock:
            self._now_us += round(by / timedelta(microseconds=1))

    def set(self, now: datetime) -> None:
        """As a machine's clock is set, also back: `elapsed_s` takes no notice of it."""
        with self._lock:
            now_us = round(now.timestamp() * US_PER_S)
            self._begun_us += now_us - self._now_us
            self._now_us = now_us
