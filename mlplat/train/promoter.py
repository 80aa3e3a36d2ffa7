"""The gate before production: may this version be a candidate? Pure; `mlplat.train.promotion` gathers the facts and acts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mlplat.clock import iso
from mlplat.decision import Act, Decision, Evidence, Hold
from mlplat.metadata.port import Goal
from mlplat.stats.paired import Difference, discoveries


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceFacts:
    """A part of the rows: mean losses of the version and of gold on it, and their paired difference."""

    name: str
    rows: int
    loss: float
    incumbent_loss: float
    versus: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a test found against a version; None: nothing. A user's test is such a fact too."""

    test: str
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionFacts:
    """What was seen of a version, on rows that its training never saw. None is what could not be measured.

    `rarest` is how many rows the rarest class has (of a regression, None). `metrics` are those of the task on these rows, `loss`
    its mean loss and `base_loss` that of the best constant. `versus` compares it with the present gold, version `incumbent`, on
    the `compared` rows that gold's training did not see either: losses of the version less gold's. `golden_difference` is the
    largest between the answers kept in the artifact and those it gives now. `probes` are tests of its behaviour, `leaks` inputs
    that alone tell the label, with how well. Of a final model these are of the version that is judged for it, but for what
    it does and weighs; `refit_loss` is its own on the same rows, which it has seen.
    """

    loads: bool
    rows: int
    rarest: int | None = None
    signature_complete: bool = False
    interface: tuple[str, ...] = ()
    golden_difference: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    loss: float | None = None
    base_loss: float | None = None
    refit_loss: float | None = None
    goal: Goal | None = None
    incumbent: int | None = None
    compared: int = 0
    incumbent_loss: float | None = None
    versus: Difference | None = None
    slices: tuple[SliceFacts, ...] = ()
    calibration_error: float | None = None
    latency_ms: float | None = None
    size_bytes: int | None = None
    probes: tuple[Problem, ...] = ()
    leaks: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPromoter:
    """The policy. A test that could not be made is not passed.

    `min_gain` is the share by which the loss must be below the best constant's. Over gold the loss must be smaller with a
    chance of error of at most `max_chance`. No slice may be worse than gold's by more than `slice_tolerance` of it, where at
    most a share `false_alarms` of the slices that are found may be so by chance. `max_calibration_error` is for probabilities.
    An input that alone tells the label better than `max_single` is a leak until shown otherwise. A final model that is worse
    on rows it has seen than the one that has not, by more than `refit_tolerance`, went wrong.
    """

    min_rows: int = 200
    min_of_each_class: int = 20
    min_gain: float = 0.01
    max_chance: float = 0.05
    slice_tolerance: float = 0.05
    false_alarms: float = 0.1
    max_calibration_error: float = 0.1
    golden_tolerance: float = 1e-6
    max_latency_ms: float = 50.0
    max_bytes: int = 2 << 30
    max_single: float = 0.995
    refit_tolerance: float = 0.05

    def decide(self, facts: PromotionFacts, *, now_us: int) -> Decision:
        """Act, or hold with the first reason that stands against it; the evidence has every test by name, with "ok" or what was
        found. Every comparison is written so that a NaN holds."""
        found = list(self._tests(facts))
        evidence: Evidence = {**_numbers(facts), "decided_at": iso(now_us)} | {
            f"test.{test}": problem or "ok" for test, problem in found
        }
        reason = next((problem for _, problem in found if problem is not None), None)
        if reason is not None:
            return Hold(reason=reason, evidence=evidence)
        if facts.incumbent is None:
            metrics = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in facts.metrics.items())
            return Act(reason=f"no incumbent; {metrics}", evidence=evidence)
        assert facts.versus is not None
        gold = f"gold's {facts.incumbent_loss:.4f} on the same {facts.compared} rows"
        sure = f"by {-facts.versus.mean:.4f}, between {-facts.versus.high:.4f} and {-facts.versus.low:.4f}"
        return Act(reason=f"the loss is below {gold} {sure}", evidence=evidence)

    def _tests(self, facts: PromotionFacts) -> Iterator[tuple[str, str | None]]:
        if not facts.loads:
            yield "loads", "the artifact does not load"
            return
        yield "signature", None if facts.signature_complete else "the signature is not complete"
        yield "golden", self._golden(facts)
        yield "rows", self._rows(facts)
        yield "better than a constant", self._gain(facts)
        if facts.refit_loss is not None:
            yield "refit", self._refit(facts)
        yield "goal", self._goal(facts)
        yield "calibration", self._calibration(facts)
        if facts.incumbent is not None:
            yield "interface", "; ".join(facts.interface) or None
            yield "better than gold", self._versus(facts)
            yield "slices", self._slices(facts)
        yield "leaks", self._leaks(facts)
        yield "latency", _above("answering one row takes", facts.latency_ms, self.max_latency_ms, "ms")
        yield "size", _above("the artifact has", facts.size_bytes, self.max_bytes, "bytes")
        yield from ((probe.test, probe.problem and f"{probe.test}: {probe.problem}") for probe in facts.probes)

    def _golden(self, facts: PromotionFacts) -> str | None:
        if _at_most(facts.golden_difference, self.golden_tolerance):
            return None
        return f"golden answers differ by {_text(facts.golden_difference)}, more than {self.golden_tolerance:g}"

    def _rows(self, facts: PromotionFacts) -> str | None:
        if facts.rows < self.min_rows:
            return f"only {facts.rows} rows held out, {self.min_rows} are needed"
        if facts.rarest is not None and facts.rarest < self.min_of_each_class:
            return f"only {facts.rarest} rows of one class held out, {self.min_of_each_class} are needed"
        return None

    def _gain(self, facts: PromotionFacts) -> str | None:
        if not _known(facts.loss) or not _known(facts.base_loss):
            return f"loss {_text(facts.loss)}, best constant {_text(facts.base_loss)}: not measured"
        if facts.base_loss is not None and _at_most(facts.loss, facts.base_loss * (1 - self.min_gain)):
            return None
        return f"loss {_text(facts.loss)} is not {self.min_gain:.1%} below the best constant's {_text(facts.base_loss)}"

    def _refit(self, facts: PromotionFacts) -> str | None:
        if facts.loss is not None and _at_most(facts.refit_loss, facts.loss * (1 + self.refit_tolerance)):
            return None
        seen, unseen = _text(facts.refit_loss), _text(facts.loss)
        return f"trained on all rows its loss is {seen} on those held out before, where it was {unseen} without them"

    def _goal(self, facts: PromotionFacts) -> str | None:
        goal = facts.goal
        if goal is None or goal.target is None:
            return None
        value = facts.metrics.get(goal.metric)
        if value is not None and goal.reached(value):
            return None
        wanted = "at least" if goal.direction == "max" else "at most"
        return f"the goal is {goal.metric} of {wanted} {goal.target:g}, and it is {_text(value)}"

    def _calibration(self, facts: PromotionFacts) -> str | None:
        if facts.calibration_error is None or facts.calibration_error <= self.max_calibration_error:
            return None
        error = _text(facts.calibration_error)
        return f"probabilities are off by {error} on average, more than {self.max_calibration_error:g}"

    def _versus(self, facts: PromotionFacts) -> str | None:
        if facts.compared < self.min_rows:
            return f"only {facts.compared} rows that neither it nor gold has seen, {self.min_rows} are needed"
        if facts.versus is None or not _known(facts.incumbent_loss):
            return f"loss {_text(facts.loss)}, gold's {_text(facts.incumbent_loss)}: not comparable"
        if facts.versus.mean < 0 and facts.versus.p_below <= self.max_chance:
            return None
        gold = f"gold's {_text(facts.incumbent_loss)} (version {facts.incumbent}) on the same {facts.compared} rows"
        if facts.versus.mean >= 0:
            return f"the loss is not below {gold}: it is {facts.versus.mean:.4g} above"
        chance = f"the chance that this is luck is {facts.versus.p_below:.2g}, more than {self.max_chance:g}"
        return f"the loss is {-facts.versus.mean:.4g} below {gold}, and {chance}"

    def _slices(self, facts: PromotionFacts) -> str | None:
        found = discoveries([part.versus.p_above for part in facts.slices], rate=self.false_alarms)
        worse = [
            part
            for part, is_worse in zip(facts.slices, found, strict=True)
            if is_worse and not _at_most(part.loss, part.incumbent_loss * (1 + self.slice_tolerance))
        ]
        if not worse:
            return None
        part = max(worse, key=lambda one: one.versus.mean)
        others = f", and {len(worse) - 1} more" if len(worse) > 1 else ""
        losses = f"loss {part.loss:.4g}, gold's {part.incumbent_loss:.4g}"
        return f"it is worse than gold where {part.name} ({part.rows} rows): {losses}{others}"

    def _leaks(self, facts: PromotionFacts) -> str | None:
        told = [(name, value) for name, value in facts.leaks if not value <= self.max_single]
        if not told:
            return None
        name, value = told[0]
        return f"input {name!r} alone tells the label ({value:.4f} of 1): a leak until shown otherwise"


def _numbers(facts: PromotionFacts) -> dict[str, float | int | str | bool | None]:
    versus = facts.versus
    compared = {} if versus is None else {"versus": versus.mean, "versus_low": versus.low, "versus_high": versus.high}
    names = (
        "rows",
        "rarest",
        "loads",
        "signature_complete",
        "golden_difference",
        "loss",
        "base_loss",
        "refit_loss",
        "incumbent",
        "compared",
    )
    more = ("incumbent_loss", "calibration_error", "latency_ms", "size_bytes")
    return {
        **{name: getattr(facts, name) for name in (*names, *more)},
        **compared,
        **({} if versus is None else {"versus_chance": versus.p_below}),
        **facts.metrics,
        **{f"slice.{part.name}": part.versus.mean for part in facts.slices},
    }


def _above(what: str, value: float | None, bound: float, unit: str) -> str | None:
    if value is not None and value <= bound:
        return None
    return f"{what} {'an unknown number of' if value is None else f'{value:,.4g}'} {unit}, more than {bound:,.4g}"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _at_most(value: float | None, bound: float) -> bool:
    return value is not None and math.isfinite(value) and value <= bound


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
