"""The gate before production: may this version be a candidate? Pure; `mlplat.train.promotion` gathers the facts and
acts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from mlplat.clock import iso
from mlplat.decision import Act, Decision, Evidence, Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionFacts:
    """What was seen of a version, on rows that its training never saw. None is what could not be measured.

    `base_log_loss` is that of the best constant on the same rows, `incumbent_log_loss` that of the present gold,
    version `incumbent`. `golden_difference` is the largest difference between the answers kept in the artifact and
    those it gives now.
    """

    rows: int
    positives: int
    signature_complete: bool
    loads: bool
    golden_difference: float | None
    log_loss: float | None
    base_log_loss: float | None
    auc: float | None
    incumbent: int | None = None
    incumbent_log_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPromoter:
    """The policy. `min_gain` is the share by which the log loss must be below the best constant's,
    `min_gain_over_gold` below gold's."""

    min_rows: int = 200
    min_of_each_class: int = 20
    min_gain: float = 0.01
    min_gain_over_gold: float = 0.0
    golden_tolerance: float = 1e-6

    def decide(self, facts: PromotionFacts, *, now_us: int) -> Decision:
        """Act, or hold with the first reason that stands against it. Every comparison is written so that a NaN
        holds."""
        evidence: Evidence = {**asdict(facts), "decided_at": iso(now_us)}
        reason = self._fitness(facts) or self._data(facts) or self._quality(facts)
        if reason is not None:
            return Hold(reason=reason, evidence=evidence)
        if facts.incumbent is None:
            return Act(reason=f"no incumbent; log loss {facts.log_loss:.4f}, AUC {_text(facts.auc)}", evidence=evidence)
        gold = f"gold's {facts.incumbent_log_loss:.4f} on the same {facts.rows} rows"
        return Act(reason=f"log loss {facts.log_loss:.4f} is below {gold}", evidence=evidence)

    def _fitness(self, facts: PromotionFacts) -> str | None:
        if not facts.loads:
            return "the artifact does not load"
        if not facts.signature_complete:
            return "the signature is not complete"
        if not _at_most(facts.golden_difference, self.golden_tolerance):
            return f"golden answers differ by {_text(facts.golden_difference)}, more than {self.golden_tolerance:g}"
        return None

    def _data(self, facts: PromotionFacts) -> str | None:
        if facts.rows < self.min_rows:
            return f"only {facts.rows} rows held out, {self.min_rows} are needed"
        fewest = min(facts.positives, facts.rows - facts.positives)
        if fewest < self.min_of_each_class:
            return f"only {fewest} rows of one class held out, {self.min_of_each_class} are needed"
        return None

    def _quality(self, facts: PromotionFacts) -> str | None:
        if not _known(facts.log_loss) or not _known(facts.base_log_loss):
            return f"log loss {_text(facts.log_loss)}, best constant {_text(facts.base_log_loss)}: not measured"
        if not _at_most(facts.log_loss, facts.base_log_loss, gain=self.min_gain):
            base = _text(facts.base_log_loss)
            return f"log loss {_text(facts.log_loss)} is not {self.min_gain:.1%} below the best constant's {base}"
        if facts.incumbent is None:
            return None
        if not _at_most(facts.log_loss, facts.incumbent_log_loss, gain=self.min_gain_over_gold, strictly=True):
            gold = f"{_text(facts.incumbent_log_loss)} (version {facts.incumbent})"
            return f"log loss {_text(facts.log_loss)} is not below gold's {gold}"
        return None


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _at_most(value: float | None, bound: float | None, *, gain: float = 0.0, strictly: bool = False) -> bool:
    if value is None or bound is None or not (math.isfinite(value) and math.isfinite(bound)):
        return False
    limit = bound * (1.0 - gain)
    return value < limit if strictly else value <= limit


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
