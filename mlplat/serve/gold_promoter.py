"""The last gate: may an experiment get a larger share, or become gold? Pure; `mlplat.serve.live` gathers the facts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mlplat.clock import iso
from mlplat.decision import Act, Decision, Evidence, Hold
from mlplat.stats.sequential import Interval

Action = Literal["end", "share", "gold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFacts:
    """What was seen of an experiment since it has its present share, beside gold at the same time.

    `rows` were assigned to it, `failed` of them it did not answer. `outcomes` and `gold_outcomes` are how many units have one;
    `versus` is the loss of its units less that of gold's. `split` is the chance of the units dividing so unevenly.
    """

    arm: str
    version: int
    gold: int
    share: float
    rows: int
    failed: int
    outcomes: int
    gold_outcomes: int
    loss: float | None
    gold_loss: float | None
    versus: Interval
    split: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldPromoter:
    """The policy. Shares go up in `steps` while the experiment is surely not worse than gold by more than `tolerance` of gold's
    loss; from `gold_from` on it becomes gold when it is surely better. What fails too often, or is surely worse, is ended.
    "Surely" is at a level of `alpha` over all looks together. Without `min_outcomes` units on both sides it holds."""

    steps: tuple[float, ...] = (0.01, 0.10, 0.50)
    gold_from: float = 0.50
    min_outcomes: int = 200
    tolerance: float = 0.05
    alpha: float = 0.05
    max_failed: float = 0.01
    min_rows: int = 100
    least_split: float = 0.001

    def decide(self, facts: LiveFacts, *, now_us: int) -> Decision:
        """The evidence of an act has the `action`: "end"; "share", with the next `share`; or "gold"."""
        evidence: Evidence = {**_numbers(facts), "decided_at": iso(now_us)}
        failed = facts.failed / facts.rows if facts.rows else 0.0
        if facts.rows >= self.min_rows and failed > self.max_failed:
            why = f"it did not answer {failed:.1%} of {facts.rows} rows, more than {self.max_failed:.1%}"
            return Act(reason=why, evidence={**evidence, "action": "end"})
        if facts.split < self.least_split:
            return Hold(
                reason=f"units did not divide as they should (p = {facts.split:.1g}): some are lost on the way",
                evidence=evidence,
            )
        few = min(facts.outcomes, facts.gold_outcomes)
        if few < self.min_outcomes:
            return Hold(
                reason=f"outcomes of {few} units on one side, {self.min_outcomes} are needed", evidence=evidence
            )
        if facts.versus.low > 0:
            return Act(
                reason=f"its loss is above gold's by {_said(facts.versus)}", evidence={**evidence, "action": "end"}
            )
        if facts.versus.high < 0 and facts.share >= self.gold_from:
            below = _said(Interval(mean=-facts.versus.mean, low=-facts.versus.high, high=-facts.versus.low))
            return Act(reason=f"its loss is below gold's by {below}", evidence={**evidence, "action": "gold"})
        margin = self.tolerance * facts.gold_loss if facts.gold_loss is not None else math.nan
        following = next((step for step in self.steps if step > facts.share), None)
        if facts.versus.high < margin and following is not None:
            why = f"it is not worse than gold by more than {self.tolerance:.0%} of its loss: {_said(facts.versus)}"
            return Act(reason=why, evidence={**evidence, "action": "share", "next_share": following})
        return Hold(reason=f"not decided yet: its loss less gold's is {_said(facts.versus)}", evidence=evidence)


def _said(versus: Interval) -> str:
    return f"{versus.mean:.4f}, between {versus.low:.4f} and {versus.high:.4f}"


def _numbers(facts: LiveFacts) -> dict[str, float | int | str | bool | None]:
    names = (
        "arm",
        "version",
        "gold",
        "share",
        "rows",
        "failed",
        "outcomes",
        "gold_outcomes",
        "loss",
        "gold_loss",
        "split",
    )
    versus = {"versus": facts.versus.mean, "versus_low": facts.versus.low, "versus_high": facts.versus.high}
    known = {name: value for name, value in versus.items() if math.isfinite(value)}
    return {**{name: getattr(facts, name) for name in names}, **known}
