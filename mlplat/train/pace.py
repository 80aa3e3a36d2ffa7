"""How often a run looks up from its steps, and when a checkpoint is due. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mlplat.train.settings import Recovery

LOOK_S = 0.25
"""Between two looks; what a stop waits for."""
MOST_STEPS = 1_000
FIRST_S = 2.0
"""A run that is shorter needs no checkpoint within its epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Of a run. A crash between the beginning of a checkpoint and its commit goes back to the one before, so with
    `recovery.steps` one begins two looks before the limit, and nobody passes the limit before it is committed."""

    recovery: Recovery

    def look_after(self, step_s: float) -> int:
        """How many steps come before the next look, of steps that take `step_s`."""
        most = MOST_STEPS if self.recovery.steps is None else max(1, self.recovery.steps // 8)
        return min(most, max(1, int(LOOK_S / step_s))) if step_s > 0 else most

    def due(self, *, steps: int, seconds: float, cost_s: float | None, ahead: int) -> bool:
        """Within an epoch: `steps` and `seconds` since the last one began, which cost `cost_s`; `ahead` steps come before
        the next look."""
        if self.recovery.steps is not None:
            return steps + 2 * ahead >= self.recovery.steps
        return seconds >= max(FIRST_S, self._gap_s(cost_s))

    def due_at_end(self, *, seconds: float, cost_s: float | None) -> bool:
        """At the end of an epoch, `seconds` after the last such checkpoint (or the beginning)."""
        return self.recovery.steps is not None or seconds >= self._gap_s(cost_s)

    def must_wait(self, *, unsaved: int, ahead: int) -> bool:
        """Whether the pending checkpoint has to be committed first, `unsaved` steps after the last committed one."""
        return self.recovery.steps is not None and unsaved + ahead > self.recovery.steps

    def _gap_s(self, cost_s: float | None) -> float:
        return 0.0 if cost_s is None else cost_s / self.recovery.share
