"""The policy, as a table of facts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mlplat.decision import Act, Hold
from mlplat.train.promoter import ModelPromoter, PromotionFacts

GOOD = PromotionFacts(
    rows=1_000,
    positives=200,
    signature_complete=True,
    loads=True,
    golden_difference=0.0,
    log_loss=0.40,
    base_log_loss=0.50,
    auc=0.75,
)
RIVAL = replace(GOOD, incumbent=3, incumbent_log_loss=0.41)


def _decide(facts: PromotionFacts) -> Act | Hold:
    return ModelPromoter().decide(facts, now_us=0)


def test_the_first_good_model_is_promoted_because_there_is_no_incumbent() -> None:
    decision = _decide(GOOD)
    assert isinstance(decision, Act)
    assert decision.reason.startswith("no incumbent")
    assert decision.evidence["log_loss"] == 0.40
    assert decision.evidence["decided_at"] == "1970-01-01T00:00:00+00:00"


def test_a_better_successor_is_promoted() -> None:
    decision = _decide(RIVAL)
    assert isinstance(decision, Act)
    assert "below gold's 0.4100 on the same 1000 rows" in decision.reason


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(GOOD, loads=False), "does not load"),
        (replace(GOOD, signature_complete=False), "signature"),
        (replace(GOOD, golden_difference=2e-6), "golden"),
        (replace(GOOD, golden_difference=math.nan), "golden"),
        (replace(GOOD, golden_difference=None), "golden"),
        (replace(GOOD, rows=199), "only 199 rows"),
        (replace(GOOD, rows=0, positives=0), "only 0 rows"),
        (replace(GOOD, positives=19), "only 19 rows of one class"),
        (replace(GOOD, positives=990), "only 10 rows of one class"),
        (replace(GOOD, log_loss=math.nan), "not measured"),
        (replace(GOOD, log_loss=-math.inf), "not measured"),
        (replace(GOOD, log_loss=None), "not measured"),
        (replace(GOOD, base_log_loss=math.nan), "not measured"),
        (replace(GOOD, log_loss=0.4951), "best constant"),
        (replace(RIVAL, incumbent_log_loss=0.40), "not below gold's 0.4 (version 3)"),
        (replace(RIVAL, incumbent_log_loss=0.39), "not below gold's"),
        (replace(RIVAL, incumbent_log_loss=math.nan), "not below gold's"),
        (replace(RIVAL, incumbent_log_loss=None), "not below gold's unknown"),
    ],
)
def test_anything_short_of_good_is_a_hold_with_its_reason(facts: PromotionFacts, says: str) -> None:
    decision = _decide(facts)
    assert isinstance(decision, Hold)
    assert says in decision.reason


@pytest.mark.parametrize("field", ["golden_difference", "log_loss", "base_log_loss", "incumbent_log_loss"])
@pytest.mark.parametrize("value", [math.nan, None])
def test_nothing_unknown_ever_passes(field: str, value: float | None) -> None:
    assert isinstance(_decide(replace(RIVAL, **{field: value})), Hold)
