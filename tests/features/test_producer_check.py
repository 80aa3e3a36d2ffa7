"""The policy, as a table of facts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mlplat.decision import Act, Hold
from mlplat.features.producer_check import ColumnFacts, ProducerCheck, ProducerFacts

SPEED = ColumnFacts(name="speed", null_rate=0.02, null_rate_kept=0.01, psi=0.05, outside=0.0)
STATE = ColumnFacts(name="state", null_rate=0.0, null_rate_kept=0.0, overlap=0.95)
GOOD = ProducerFacts(rows=5_000, rows_kept=12_000, known_keys=0.9, columns=(SPEED, STATE))


def speed(**other: float) -> ProducerFacts:
    return replace(GOOD, columns=(replace(SPEED, **other), STATE))


def test_a_sample_like_the_table_is_an_act_with_the_evidence_of_every_column() -> None:
    decision = ProducerCheck().decide(GOOD)
    assert isinstance(decision, Act)
    assert decision.reason == "5,000 rows are like the 12,000 newest ones in all 2 columns"
    assert decision.evidence == {
        "rows": 5_000,
        "rows_kept": 12_000,
        "known_keys": 0.9,
        "speed.null_rate": 0.02,
        "speed.null_rate_kept": 0.01,
        "speed.psi": 0.05,
        "speed.outside": 0.0,
        "state.null_rate": 0.0,
        "state.null_rate_kept": 0.0,
        "state.overlap": 0.95,
    }


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(GOOD, problems=("speed: is String, and the table has it as Float64",)), "speed: is String"),
        (replace(GOOD, rows=499), "the sample has 499 rows, 500 are needed"),
        (replace(GOOD, rows_kept=0), "the table has 0 rows, 500 are needed"),
        (replace(GOOD, known_keys=0.1), "only 10.0% of the sample's entities are in the table, 50% are needed"),
        (replace(GOOD, known_keys=math.nan), "only nan% of the sample's entities"),
        (speed(null_rate=0.07), "column 'speed': 7.0% nulls, and 1.0% before; 5% of difference is allowed"),
        (speed(null_rate=0.0, null_rate_kept=0.2), "column 'speed': 0.0% nulls, and 20.0% before"),
        (speed(null_rate=math.nan), "nan% nulls"),
        (speed(psi=0.31), "column 'speed': its numbers are spread otherwise, PSI 0.31 where 0.25 is allowed"),
        (speed(psi=math.nan), "PSI nan"),
        (speed(outside=0.03), "column 'speed': 3.0% lie beyond all before, 2% are allowed"),
        (speed(outside=math.nan), "nan% lie beyond"),
        (
            replace(GOOD, columns=(SPEED, replace(STATE, overlap=0.4))),
            "column 'state': its values overlap by 40% where 70% is needed",
        ),
        (replace(GOOD, columns=(SPEED, replace(STATE, overlap=math.nan))), "overlap by nan%"),
    ],
)
def test_any_difference_is_a_hold_that_names_the_column_and_by_how_much(facts: ProducerFacts, says: str) -> None:
    decision = ProducerCheck().decide(facts)
    assert isinstance(decision, Hold)
    assert says in decision.reason


def test_all_that_differs_is_said_and_long_lists_are_cut() -> None:
    columns = tuple(replace(SPEED, name=f"c{at}", psi=1.0) for at in range(7))
    decision = ProducerCheck().decide(replace(GOOD, columns=columns))
    assert decision.reason.count("column") == 5
    assert decision.reason.endswith("; and 2 more")
