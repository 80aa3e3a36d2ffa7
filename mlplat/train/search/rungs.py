"""When a trial is given up early. Pure: from what trials told, which the record has, to whether one goes on; so nothing of it is
lost with a process.

This is asynchronous successive halving in its stopping variant (Li et al., MLSys 2020), and with several brackets Hyperband's
(JMLR 2018): a trial that comes to a rung goes on if it is among the best 1/`factor` of those that have come there so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mlplat.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Rungs:
    """Rungs are after `first`, `first * factor`, `first * factor ** 2`, ... steps (epochs of a training). Of `brackets`, which
    trials take in turn, each begins a rung later than the one before: that guards against giving up what starts slowly."""

    first: int = 1
    factor: int = 3
    brackets: int = 1

    def __post_init__(self) -> None:
        for name, least in (("first", 1), ("factor", 2), ("brackets", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidInput(f"rungs: {name}={value!r} must be a whole number from {least}")

    def goes_on(
        self,
        number: int,
        step: int,
        steps: Mapping[int, float],
        others: Iterable[Mapping[int, float]],
        *,
        best: Literal["min", "max"],
    ) -> bool:
        """Whether trial `number` goes on after `step`. `steps` is what it told, `others` what the other trials did, of its own
        bracket and of others."""
        rung = self._rung(number, step)
        if rung is None:
            return True
        value = steps[step]
        if not math.isfinite(value):
            return False
        sign = 1.0 if best == "min" else -1.0
        peers = [sign * other[rung] for other in others if rung in other and math.isfinite(other[rung])]
        ranked = sorted([*peers, sign * value])
        kept = max(1, len(ranked) // self.factor)
        return sign * value <= ranked[kept - 1]

    def _rung(self, number: int, step: int) -> int | None:
        """Steps of the rung that this is, if it is one of its bracket."""
        at = self.first * self.factor ** (number % self.brackets)
        while at < step:
            at *= self.factor
        return at if at == step else None
