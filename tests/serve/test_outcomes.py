"""Outcomes: late, again, or never; and the facts that they make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlplat.errors import InvalidInput, NotFound
from mlplat.serve import live, outcomes
from mlplat.serve.state import Entry, Member

START = datetime(2026, 1, 1, tzinfo=UTC)


def frame(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame(columns)


def test_the_outcome_that_is_known_last_counts_and_the_same_again_changes_nothing(tmp_path: Path) -> None:
    assert outcomes.read(tmp_path, "late").is_empty()
    first = frame(prediction_id=["a", "b"], value=[0, 1])
    assert outcomes.put(tmp_path, "late", first, now_us=1) == 2
    assert outcomes.put(tmp_path, "late", first, now_us=9) == 2
    assert len(list((tmp_path / "outcomes" / "late").iterdir())) == 1
    outcomes.put(tmp_path, "late", frame(prediction_id=["a"], value=[1.0]), now_us=2)
    found = dict(outcomes.read(tmp_path, "late").select("prediction_id", "value").iter_rows())
    assert found == {"a": 1.0, "b": 1.0}
    assert outcomes.put(tmp_path, "late", first.head(0), now_us=3) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (frame(prediction_id=["a"]), "need the column 'value'"),
        (frame(value=[1]), "need the column 'prediction_id'"),
        (frame(prediction_id=["a", "b"], value=[1.0, None]), "1 rows have no prediction_id or no value"),
        (frame(prediction_id=["a"], value=[float("nan")]), "1 rows have no"),
        (frame(prediction_id=["a"], value=["late"]), "value numbers"),
    ],
)
def test_what_is_no_outcome_is_refused(tmp_path: Path, given: pl.DataFrame, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        outcomes.put(tmp_path, "late", given, now_us=1)
    assert outcomes.read(tmp_path, "late").is_empty()


def log(rows: int = 400, *, share: float = 0.25) -> pl.DataFrame:
    """Every fourth unit is the experiment's; it answered 0.9, and gold 0.6. Before, the share was another one."""
    i = np.arange(rows)
    own = i % 4 == 0
    made = pl.DataFrame(
        {
            "prediction_id": [f"p{n}" for n in i],
            "request_id": [f"r{n}" for n in i],
            "at": [START + timedelta(seconds=int(n)) for n in i],
            "received_at": [START + timedelta(seconds=int(n)) for n in i],
            "arm": np.where(own, "b", "gold"),
            "propensity": np.where(own, share, 1 - share),
            "instead": [None] * rows,
            "shadow": [False] * rows,
            "unit": [f"u{n}" for n in i],
            "shop": [f"s{n % 7}" for n in i],
            "output.probability": np.where(own, 0.9, 0.6),
        },
        schema_overrides={"instead": pl.String},
    )
    before = made.head(50).with_columns(propensity=pl.lit(0.01), received_at=pl.col("received_at") - timedelta(days=1))
    shadows = made.head(30).with_columns(shadow=pl.lit(value=True))
    return pl.concat([before, made, shadows])


def entry(share: float = 0.25) -> Entry:
    b = Member(name="b", role="experiment", version=2, digest="d", path="/m", share=share)
    return Entry(name="late", version=1, digest="e", path="/m", url="u", cluster="c", others=(b,))


def squared(rows: pl.DataFrame, values: Any) -> Any:
    return (rows["output.probability"].to_numpy() - values) ** 2


def test_the_facts_are_of_the_present_share_and_of_answers_alone() -> None:
    known = frame(prediction_id=[f"p{i}" for i in range(0, 200)], value=[1.0] * 200)
    facts = live.facts_of(entry(), "b", log(), known, squared, alpha=0.05)
    assert (facts.rows, facts.failed, facts.outcomes, facts.gold_outcomes) == (100, 0, 50, 150)
    assert facts.loss == pytest.approx(0.01)
    assert facts.gold_loss == pytest.approx(0.16)
    assert facts.versus.mean == pytest.approx(-0.15)
    assert facts.split == pytest.approx(1.0)
    with pytest.raises(NotFound, match="Known: b"):
        live.facts_of(entry(), "x", log(), known, squared, alpha=0.05)


def test_rows_that_gold_answered_in_its_place_count_against_it_and_are_not_its_loss() -> None:
    fallen = log().with_columns(
        pl.when((pl.col("arm") == "b") & (pl.col("received_at") < START + timedelta(seconds=100)))
        .then(pl.lit("late"))
        .otherwise(pl.col("instead"))
        .alias("instead")
    )
    known = frame(prediction_id=[f"p{i}" for i in range(400)], value=[1.0] * 400)
    facts = live.facts_of(entry(), "b", fallen, known, squared, alpha=0.05)
    assert (facts.failed, facts.rows, facts.outcomes) == (25, 100, 75)


def test_nothing_logged_is_nothing_known() -> None:
    facts = live.facts_of(entry(), "b", pl.DataFrame(), outcomes.read(Path("/nowhere"), "late"), squared, alpha=0.05)
    assert (facts.rows, facts.outcomes, facts.loss, facts.versus.high) == (0, 0, None, float("inf"))


def test_outcomes_are_found_by_request_or_by_entity_and_moment() -> None:
    by_request = live.by_prediction(frame(request_id=["r300", "r3", "nobody"], value=[1, 1, 0]), log(), [])
    assert by_request.rows() == [("p300", 1)]  # two rows were asked for as r3: nobody knows which
    moment = frame(shop=["s5"], at=[START + timedelta(seconds=12)], value=[0.5])
    assert live.by_prediction(moment, log(), ["shop"]).rows() == [("p12", 0.5)]
    with pytest.raises(InvalidInput, match="prediction_id or request_id or shop and at"):
        live.by_prediction(frame(value=[1]), log(), ["shop"])
    assert live.by_prediction(frame(request_id=["r1"], value=[1]), pl.DataFrame(), []).is_empty()
