"""What an operator decides about sharing."""

from __future__ import annotations

from dataclasses import dataclass

from mlplat.jobs.job import IDLE, PRIORITIES, Job

ABOVE, MIDDLE, LAST = 2, 1, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`over_fairness`: priorities from this one on come before fairness, and take slots from lower ones at once.

    `slice_s`: those who cannot have equal shares at once take turns when one used less than the other by so many seconds of what
    it asks for.
    """

    over_fairness: int = PRIORITIES["production"]
    slice_s: float = 600.0

    @property
    def entry_s(self) -> float:
        """What begins counts as used for so long at once, so that many short jobs gain nothing over few long ones: little of a
        slice, or whoever has short jobs would lose by it."""
        return self.slice_s / 20

    def tier(self, job: Job) -> int:
        """ABOVE fairness, in the MIDDLE, where it decides, or LAST: idle work."""
        return ABOVE if job.priority >= self.over_fairness else LAST if job.priority <= IDLE else MIDDLE
