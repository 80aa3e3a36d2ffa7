"""The policy, case by case: without enough it holds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.decision import Act, Hold
from mlplat.serve.gold_promoter import GoldPromoter, LiveFacts
from mlplat.stats.sequential import Interval

BETTER = LiveFacts(
    arm="b",
    version=2,
    gold=1,
    share=0.5,
    rows=5_000,
    failed=3,
    outcomes=900,
    gold_outcomes=1_000,
    loss=0.40,
    gold_loss=0.45,
    versus=Interval(mean=-0.05, low=-0.08, high=-0.02),
    split=0.4,
)
UNSURE = Interval(mean=-0.001, low=-0.02, high=0.018)
WORSE = Interval(mean=0.05, low=0.02, high=0.08)


@pytest.mark.parametrize(
    ("facts", "action", "said"),
    [
        (BETTER, "gold", "its loss is below gold's by 0.0500, between 0.0200 and 0.0800"),
        (replace(BETTER, share=0.1), "share", "not worse than gold by more than 5%"),
        (replace(BETTER, versus=UNSURE, share=0.01), "share", "not worse"),
        (replace(BETTER, versus=UNSURE), None, "not decided yet"),
        (replace(BETTER, versus=WORSE), "end", "its loss is above gold's by 0.0500"),
        (replace(BETTER, versus=WORSE, share=0.01), "end", "above"),
        (replace(BETTER, failed=100), "end", "did not answer 2.0% of 5000 rows"),
        (replace(BETTER, failed=5, rows=20, outcomes=15), None, "outcomes of 15 units on one side, 200 are needed"),
        (replace(BETTER, gold_outcomes=0), None, "outcomes of 0 units"),
        (replace(BETTER, split=1e-6), None, "units did not divide as they should"),
        (replace(BETTER, versus=Interval(mean=math.nan, low=-math.inf, high=math.inf)), None, "not decided yet"),
    ],
)
def test_the_policy(facts: LiveFacts, action: str | None, said: str) -> None:
    decision = GoldPromoter().decide(facts, now_us=0)
    assert said in decision.reason
    assert isinstance(decision, Hold if action is None else Act)
    assert decision.evidence.get("action") == action
    if action == "share":
        assert decision.evidence["next_share"] == {0.01: 0.1, 0.1: 0.5}[facts.share]


@given(
    st.floats(allow_nan=True),
    st.floats(allow_nan=True),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    st.floats(0, 1),
)
def test_no_experiment_becomes_gold_without_being_surely_better_on_enough(
    low: float, high: float, outcomes: int, failed: int, share: float, split: float
) -> None:
    facts = replace(
        BETTER,
        versus=Interval(mean=low, low=low, high=high),
        outcomes=outcomes,
        failed=failed,
        share=share,
        split=split,
    )
    decision = GoldPromoter().decide(facts, now_us=0)
    if decision.evidence.get("action") == "gold":
        assert high < 0
        assert outcomes >= 200
        assert share >= 0.5
        assert split >= 0.001
    if decision.evidence.get("action") == "share":
        assert float(decision.evidence["next_share"]) > share  # type: ignore[arg-type]
        assert float(decision.evidence["next_share"]) <= 0.5  # type: ignore[arg-type]
