"""The policy, as a table of facts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from mlplat.decision import Act, Decision, Hold
from mlplat.metadata.port import Goal
from mlplat.stats.paired import Difference
from mlplat.train.promoter import ModelPromoter, Problem, PromotionFacts, SliceFacts


def difference(mean: float, chance: float) -> Difference:
    return Difference(mean=mean, low=mean - 0.01, high=mean + 0.01, confidence=0.95, p_below=chance, p_above=1 - chance)


GOOD = PromotionFacts(
    loads=True,
    rows=1_000,
    rarest=200,
    signature_complete=True,
    golden_difference=0.0,
    metrics={"log_loss": 0.40, "auc": 0.75},
    loss=0.40,
    base_loss=0.50,
    calibration_error=0.02,
    latency_ms=0.2,
    size_bytes=10_000,
    probes=(Problem(test="nulls", problem=None),),
    leaks=(("x0", 0.7),),
)
RIVAL = replace(GOOD, incumbent=3, compared=900, incumbent_loss=0.42, versus=difference(-0.02, 0.001))
WEAK = SliceFacts(name="c0 = 'k1'", rows=150, loss=0.6, incumbent_loss=0.4, versus=difference(0.2, 0.9999))
LUCK = replace(WEAK, versus=difference(0.2, 0.7))
SMALL = replace(WEAK, loss=0.41)


def decide(facts: PromotionFacts) -> Decision:
    return ModelPromoter().decide(facts, now_us=0)


def test_the_first_good_model_is_promoted_because_there_is_no_incumbent() -> None:
    decision = decide(GOOD)
    assert isinstance(decision, Act)
    assert decision.reason == "no incumbent; log loss 0.4000, auc 0.7500"
    assert decision.evidence["loss"] == 0.40
    assert decision.evidence["auc"] == 0.75
    assert decision.evidence["decided_at"] == "1970-01-01T00:00:00+00:00"
    tests = {name for name in decision.evidence if name.startswith("test.")}
    assert {"test.golden", "test.leaks", "test.latency", "test.size", "test.nulls", "test.calibration"} <= tests
    assert {decision.evidence[name] for name in tests} == {"ok"}


def test_a_successor_that_is_surely_better_is_promoted() -> None:
    decision = decide(replace(RIVAL, slices=(SMALL, LUCK)))
    assert isinstance(decision, Act)
    assert "below gold's 0.4200 on the same 900 rows by 0.0200, between 0.0100 and 0.0300" in decision.reason
    assert decision.evidence["versus_chance"] == 0.001


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(GOOD, loads=False), "does not load"),
        (replace(GOOD, signature_complete=False), "signature"),
        (replace(GOOD, golden_difference=2e-6), "golden"),
        (replace(GOOD, golden_difference=math.nan), "golden"),
        (replace(GOOD, golden_difference=None), "golden"),
        (replace(GOOD, rows=199), "only 199 rows"),
        (replace(GOOD, rows=0, rarest=0), "only 0 rows"),
        (replace(GOOD, rarest=19), "only 19 rows of one class"),
        (replace(GOOD, loss=math.nan), "not measured"),
        (replace(GOOD, loss=None), "not measured"),
        (replace(GOOD, base_loss=math.nan), "not measured"),
        (replace(GOOD, loss=0.4951), "not 1.0% below the best constant's 0.5"),
        (
            replace(GOOD, goal=Goal(metric="auc", direction="max", target=0.8)),
            "the goal is auc of at least 0.8, and it is 0.75",
        ),
        (
            replace(GOOD, goal=Goal(metric="margin", direction="min", target=0.8)),
            "margin of at most 0.8, and it is unknown",
        ),
        (replace(GOOD, calibration_error=0.2), "off by 0.2 on average"),
        (replace(GOOD, leaks=(("x0", 0.999),)), "input 'x0' alone tells the label (0.9990 of 1): a leak"),
        (replace(GOOD, leaks=(("x0", math.nan),)), "a leak"),
        (replace(GOOD, latency_ms=80.0), "answering one row takes 80 ms, more than 50"),
        (replace(GOOD, latency_ms=None), "an unknown number of ms"),
        (replace(GOOD, size_bytes=3 << 30), "the artifact has 3.221e+09 bytes"),
        (
            replace(GOOD, probes=(Problem(test="nulls", problem="answers are not finite"),)),
            "nulls: answers are not finite",
        ),
        (replace(RIVAL, interface=("request field 'age' is new",)), "request field 'age' is new"),
        (replace(RIVAL, versus=difference(0.0, 0.4)), "not below gold's 0.42 (version 3) on the same 900 rows"),
        (replace(RIVAL, versus=difference(-0.02, 0.2)), "the chance that this is luck is 0.2, more than 0.05"),
        (replace(RIVAL, versus=difference(-0.02, math.nan)), "luck"),
        (replace(RIVAL, versus=None), "not comparable"),
        (replace(RIVAL, incumbent_loss=None), "not comparable"),
        (replace(RIVAL, compared=50), "only 50 rows that neither it nor gold has seen"),
        (replace(RIVAL, slices=(LUCK, WEAK)), "worse than gold where c0 = 'k1' (150 rows): loss 0.6, gold's 0.4"),
    ],
)
def test_anything_short_of_good_is_a_hold_with_its_reason(facts: PromotionFacts, says: str) -> None:
    decision = decide(facts)
    assert isinstance(decision, Hold)
    assert says in decision.reason


@pytest.mark.parametrize(
    "name", ["golden_difference", "loss", "base_loss", "incumbent_loss", "latency_ms", "size_bytes"]
)
@pytest.mark.parametrize("value", [math.nan, None])
def test_nothing_unknown_ever_passes(name: str, value: Any) -> None:
    assert isinstance(decide(replace(RIVAL, **{name: value})), Hold)


def test_every_test_is_in_the_evidence_of_a_hold_too() -> None:
    decision = decide(replace(RIVAL, rows=10, slices=(WEAK,), probes=(Problem(test="mine", problem="no"),)))
    assert decision.reason.startswith("only 10 rows")
    assert decision.evidence["test.mine"] == "mine: no"
    assert str(decision.evidence["test.slices"]).startswith("it is worse than gold")
    assert decision.evidence["slice.c0 = 'k1'"] == 0.2
