"""How many rows a call may have, and how many may wait for one, so that a latency objective is kept. Pure: it is told how long
calls took."""

from __future__ import annotations

CALL_SHARE = 0.5
"""Of the objective's time, what a call may take; the rest is for those who wait for it."""
FIRST_ROWS = 32
STEP_ROWS = 8
WEIGHT = 0.2
"""Of the newest call, in the mean of how many rows one answers in a second."""


class Pace:
    """Additive increase, multiplicative decrease: `rows` a call may have grows by a step while calls that use them are quick
    enough, and is halved by one that is not. `waiting` rows may wait: what was answered lately in the time that is left to them,
    and always one call's worth."""

    def __init__(self, limit_s: float, *, most_rows: int, most_waiting: int) -> None:
        self.limit_s = limit_s
        self._most_rows, self._most_waiting = most_rows, most_waiting
        self.rows, self.waiting = min(FIRST_ROWS, most_rows), most_waiting
        self._rate: float | None = None

    def ended(self, rows: int, took_s: float, at_once: int) -> None:
        """A call of so many rows took `took_s` seconds, while `at_once` were under way."""
        if rows <= self.rows:  # a larger one is a request that nobody could have divided
            if took_s > self.limit_s * CALL_SHARE:
                self.rows = max(1, rows // 2)
            elif 2 * rows > self.rows:
                self.rows = min(self._most_rows, self.rows + STEP_ROWS)
        rate = rows / max(took_s, 1e-6)
        self._rate = rate if self._rate is None else WEIGHT * rate + (1 - WEIGHT) * self._rate
        in_time = int(self._rate * at_once * self.limit_s * (1 - CALL_SHARE))
        self.waiting = min(self._most_waiting, max(self.rows, in_time))
