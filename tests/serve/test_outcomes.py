"""Outcomes: late, again, or never; and the facts that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.errors import Conflict, InvalidInput, NotFound
from mlplat.features.store import FeatureStore
from mlplat.model.task import BINARY, Task
from mlplat.serve import live, outcomes
from mlplat.serve.state import Entry, Member
from tests.features.support import open_store

START = datetime(2026, 1, 1, tzinfo=UTC)


def frame(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame(columns)


@pytest.fixture
def features(tmp_path: Path) -> Iterator[FeatureStore]:
    store = open_store(tmp_path)
    yield store
    store.close()


def tell(features: FeatureStore, home: Path, told: pl.DataFrame, *, now_us: int, task: Task = BINARY) -> None:
    outcomes.put(features, home, "late", outcomes.checked(told, task), now_us=now_us)


def known(features: FeatureStore, home: Path) -> dict[str, Any]:
    return dict(outcomes.read(features, home, "late").select("prediction_id", "value").iter_rows())


def test_the_outcome_that_is_told_last_counts_and_the_same_again_changes_nothing(
    features: FeatureStore, tmp_path: Path
) -> None:
    assert outcomes.read(features, tmp_path, "late").is_empty()
    first = frame(prediction_id=["a", "b"], value=[0, 1])
    for _ in range(2):
        tell(features, tmp_path, first, now_us=1)
    assert features.dataset("outcomes.late").rows == 2
    tell(features, tmp_path, frame(prediction_id=["a"], value=[1.0]), now_us=1)
    assert known(features, tmp_path) == {"a": 1.0, "b": 1.0}
    tell(features, tmp_path, first, now_us=0)  # whatever the clock says
    assert known(features, tmp_path) == {"a": 0.0, "b": 1.0}
    tell(features, tmp_path, first.head(0), now_us=3)
    assert features.events("outcomes.late")["value"].to_list() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.0, 1.0]), max_size=3), max_size=6))
def test_what_is_known_is_what_a_dictionary_would_know(told: list[dict[str, float]]) -> None:
    with TemporaryDirectory() as folder:
        features, expected = open_store(Path(folder)), {}
        for values in told:
            given_now = pl.DataFrame(
                {"prediction_id": list(values), "value": list(values.values())},
                schema={"prediction_id": pl.String, "value": pl.Float64},
            )
            tell(features, Path(folder), given_now, now_us=1)
            expected |= values
        assert known(features, Path(folder)) == expected
        features.close()


def test_of_one_prediction_told_twice_at_once_the_last_counts() -> None:
    found = outcomes.checked(frame(prediction_id=["a", "b", "a"], value=[0, 1, 1]), BINARY)
    assert found.rows() == [("b", 1.0), ("a", 1.0)]


def test_outcomes_of_an_older_release_are_brought_along(features: FeatureStore, tmp_path: Path) -> None:
    folder = tmp_path / "outcomes" / "late"
    folder.mkdir(parents=True)
    for number, value in enumerate((0.0, 1.0)):
        kept = frame(prediction_id=["a", f"b{number}"], value=[value] * 2)
        at = pl.lit(START + timedelta(days=number)).dt.cast_time_unit("us").alias("known_at")
        kept.with_columns(at).write_parquet(folder / f"{9 - number}.parquet")
    assert known(features, tmp_path) == {"a": 1.0, "b0": 0.0, "b1": 1.0}
    assert list(folder.iterdir()) == []
    assert features.dataset("outcomes.late").rows == 4


WORDS, NUMBERS = Task(kind="multiclass", classes=("high", "low")), Task(kind="multiclass", classes=(3, 1, 2))


def test_an_outcome_may_be_a_class(features: FeatureStore, tmp_path: Path) -> None:
    tell(features, tmp_path, frame(prediction_id=["a", "b"], value=["low", "high"]), now_us=1, task=WORDS)
    tell(features, tmp_path, frame(prediction_id=["a"], value=["high"]), now_us=2, task=WORDS)
    assert known(features, tmp_path) == {"a": "high", "b": "high"}
    with pytest.raises(InvalidInput, match="value is Float64, and those that 'late' has are String"):
        tell(features, tmp_path, frame(prediction_id=["a"], value=[1]), now_us=3)


@pytest.mark.parametrize(
    ("told", "task", "said"),
    [
        (frame(prediction_id=["a"]), BINARY, "need the column 'value'"),
        (frame(value=[1]), BINARY, "need the column 'prediction_id'"),
        (frame(prediction_id=["a", "b"], value=[1.0, None]), BINARY, "1 rows have no prediction_id or no value"),
        (frame(prediction_id=["a", None], value=["low", None]), WORDS, "1 rows have no prediction_id or no value"),
        (frame(prediction_id=["a"], value=[float("nan")]), BINARY, "1 rows have no"),
        (frame(prediction_id=["a"], value=["late"]), BINARY, "value numbers"),
        (frame(prediction_id=["a", "b"], value=[1, 2]), BINARY, r"value is 2, and must be 0 or 1 \(1 rows: 1\)"),
        (frame(prediction_id=["a"], value=[float("inf")]), Task(kind="regression"), "must be a finite number"),
        (frame(prediction_id=["a"], value=["lo"]), WORDS, "value is 'lo', and must be one of the classes high, low"),
        (frame(prediction_id=["a"], value=[0]), WORDS, "value is '0', and must be one of the classes high, low"),
        (frame(prediction_id=["a"] * 9, value=[4] * 9), NUMBERS, r"classes 3, 1, 2 \(9 rows: 0, 1, 2, 3, 4, \.\.\.\)"),
        (frame(prediction_id=["a"], value=[1.5]), NUMBERS, "value is 1.5"),
    ],
)
def test_what_is_no_outcome_is_refused(told: pl.DataFrame, task: Task, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        outcomes.checked(told, task)


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
            "version": np.where(own, 2, 1),
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


def test_what_an_arm_or_gold_answered_with_another_version_does_not_count() -> None:
    known = frame(prediction_id=[f"p{i}" for i in range(400)], value=[1.0] * 400)
    before = pl.col("received_at") < START + timedelta(seconds=100)
    own_before = log().with_columns(version=pl.when(before & (pl.col("arm") == "b")).then(7).otherwise("version"))
    facts = live.facts_of(entry(), "b", own_before, known, squared, alpha=0.05)
    assert (facts.rows, facts.outcomes, facts.gold_outcomes) == (75, 75, 225)
    gold_before = log().with_columns(version=pl.when(before & (pl.col("arm") == "gold")).then(7).otherwise("version"))
    facts = live.facts_of(entry(), "b", gold_before, known, squared, alpha=0.05)
    assert (facts.outcomes, facts.gold_outcomes) == (100, 225)


def test_an_experiment_that_was_changed_meanwhile_is_left_alone() -> None:
    (member,) = entry().others
    assert live.unchanged(entry(), member) is member
    with pytest.raises(Conflict, match="was changed meanwhile"):
        live.unchanged(entry(share=0.5), member)
    with pytest.raises(NotFound):
        live.unchanged(replace(entry(), others=()), member)


def test_the_task_of_several_versions_has_the_classes_of_all() -> None:
    assert live.one_task([WORDS, replace(WORDS, classes=("low", "none"))]).classes == ("high", "low", "none")
    assert live.one_task([BINARY, BINARY]) == BINARY
    with pytest.raises(InvalidInput, match="versions for binary and for multiclass cannot be compared"):
        live.one_task([WORDS, BINARY])


def test_nothing_logged_is_nothing_known() -> None:
    none = pl.DataFrame(schema={"prediction_id": pl.String, "value": pl.Float64})
    facts = live.facts_of(entry(), "b", pl.DataFrame(), none, squared, alpha=0.05)
    assert (facts.rows, facts.outcomes, facts.loss, facts.versus.high) == (0, 0, None, float("inf"))


def test_outcomes_are_found_by_request_or_by_entity_and_moment() -> None:
    by_request = live.by_prediction(frame(request_id=["r300", "r3", "nobody"], value=[1, 1, 0]), log(), [])
    assert by_request.rows() == [("p300", 1)]  # two rows were asked for as r3: nobody knows which
    moment = frame(shop=["s5"], at=[START + timedelta(seconds=12)], value=[0.5])
    assert live.by_prediction(moment, log(), ["shop"]).rows() == [("p12", 0.5)]
    with pytest.raises(InvalidInput, match="prediction_id or request_id or shop and at"):
        live.by_prediction(frame(value=[1]), log(), ["shop"])
    assert live.by_prediction(frame(request_id=["r1"], value=[1]), pl.DataFrame(), []).is_empty()
