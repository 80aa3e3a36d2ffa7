"""Where a view's pushed events are transformed: in the pushing process, or on long-lived actors."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Literal

from mlplat.features.definitions import View

SLOW_S = 0.02
"""From this median on a call is worth a trip to an actor, which costs about 2 ms."""
FEWEST_CALLS, CALLS = 5, 21


class Placement:
    """Of one view in one process. `online="auto"` begins inline, and goes to the actors for good once the median of the
    last calls is above `SLOW_S`."""

    def __init__(self, view: View) -> None:
        self._place = view.online
        self._calls: deque[float] = deque(maxlen=CALLS)

    def decide(self) -> Literal["inline", "actors"]:
        if self._place == "auto":
            slow = len(self._calls) >= FEWEST_CALLS and statistics.median(self._calls) > SLOW_S
            if not slow:
                return "inline"
            self._place = "actors"
        return self._place

    def took(self, seconds: float) -> None:
        """A call inline took so long."""
        self._calls.append(seconds)
