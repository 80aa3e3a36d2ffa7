"""How much more than their fair share tenants used lately, so that those take turns who cannot have equal shares at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlplat.clock import US_PER_S

By = tuple[str, str]
"""Pool and tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Seconds of a share, of which half is forgotten in `half_life_s`: as of `at_us`."""

    half_life_s: float = 4 * 3600.0
    at_us: int = 0
    seconds: Mapping[By, float] = field(default_factory=dict)

    def later(self, now_us: int, over: Mapping[By, float]) -> Usage:
        """Now, when so much was held beyond the fair shares since (`Plan.over`). A clock that was set back stands still."""
        passed_s = max(0.0, (now_us - self.at_us) / US_PER_S)
        kept = math.exp2(-passed_s / self.half_life_s)
        earned = self.half_life_s / math.log(2) * (1 - kept)  # the integral of what is left of each second
        names = self.seconds.keys() | over.keys()
        seconds = {by: self.seconds.get(by, 0.0) * kept + over.get(by, 0.0) * earned for by in sorted(names)}
        return self._with(max(now_us, self.at_us), {by: value for by, value in seconds.items() if abs(value) > 1e-9})

    def begun(self, by: By, seconds: float) -> Usage:
        """What begins counts so much at once."""
        return self._with(self.at_us, {**self.seconds, by: self.seconds.get(by, 0.0) + seconds})

    def _with(self, at_us: int, seconds: Mapping[By, float]) -> Usage:
        return Usage(half_life_s=self.half_life_s, at_us=at_us, seconds=seconds)
