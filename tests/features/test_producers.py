"""Replacing the producer of a source, and who may feed it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlplat import features as F
from mlplat.decision import Act, Hold
from mlplat.errors import InvalidInput, NotFound, Refused
from mlplat.features.store import FeatureStore
from tests.features.support import START, START_US, open_store

readings = F.source("readings", key="machine", time="read_at", id="number")


def sample(seed: int, rows: int = 2_000, first: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame({"number": range(first, first + rows)}).with_columns(
        machine=pl.format("m{}", pl.col("number") % 40),
        read_at=pl.lit(START) + pl.duration(minutes="number"),
        heat=pl.Series(random.normal(60, 4, rows)),
        cycles=pl.Series(random.poisson(3, rows)).cast(pl.Int64),
        state=pl.Series(random.choice(["ok", "warm", "hot"], rows, p=[0.7, 0.2, 0.1])),
        alarm=pl.Series(random.uniform(size=rows) < 0.1),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    opened = open_store(tmp_path)
    opened.ingest(readings, sample(1), producer="telemetry")
    yield opened
    opened.close()


@pytest.mark.slow
def test_a_like_sample_replaces_the_producer_and_only_its_batches_are_taken(store: FeatureStore) -> None:
    change = store.replace_producer(readings, sample(2, first=2_000), producer="telemetry-v2")
    assert isinstance(change.decision, Act)
    assert change.decision.reason == "2,000 rows are like the 2,000 newest ones in all 7 columns"
    assert store.ingest(readings, sample(2, 100, first=2_000), producer="telemetry-v2").added == 100
    with pytest.raises(Refused, match=r"fed by 'telemetry-v2', and this batch comes from 'telemetry': show a sample"):
        store.ingest(readings, sample(3, 100, first=9_000), producer="telemetry")
    assert store.describe(readings).sketch.rows == 2_100


def test_the_history_of_a_source_has_every_decision_and_outlives_the_process(
    store: FeatureStore, tmp_path: Path
) -> None:
    store.replace_producer(readings, sample(2, 20), producer="small")
    store.replace_producer(readings, sample(2), producer="telemetry-v2")
    other = open_store(tmp_path)
    history = other.producers(readings)
    assert history == store.producers(readings)
    assert [(c.producer, c.accepted, c.at_us) for c in history] == [
        ("telemetry", True, START_US),
        ("small", False, START_US),
        ("telemetry-v2", True, START_US),
    ]
    assert history[0].decision == Act(reason="the first producer")
    assert history[1].decision.reason == "the sample has 20 rows, 500 are needed"
    other.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (pl.col("heat") * 9 / 5 + 32, "column 'heat': its numbers are spread otherwise, PSI "),
        (
            pl.when(pl.col("number") % 20 == 0).then(-999.0).otherwise("heat").alias("heat"),
            "5.0% lie beyond all before",
        ),
        (pl.when(pl.col("number") % 5 > 0).then("heat"), "column 'heat': 20.0% nulls, and 0.0% before"),
        (pl.col("state").str.to_uppercase(), "column 'state': its values overlap by 0%"),
        (~pl.col("alarm"), "column 'alarm': its values overlap by "),
        (pl.col("cycles") + 3, "column 'cycles': its numbers are spread otherwise"),
        (pl.col("machine").str.to_uppercase(), "only 0.0% of the sample's entities are in the table"),
        (pl.col("heat").cast(pl.String), "heat: is String, and the table has it as Float64"),
        (pl.lit(None, dtype=pl.String).alias("machine"), "machine: is null (2000 rows"),
    ],
)
def test_a_sample_that_differs_is_held_and_the_old_producer_goes_on(
    store: FeatureStore, changed: pl.Expr, says: str
) -> None:
    change = store.replace_producer(readings, sample(2).with_columns(changed), producer="other")
    assert isinstance(change.decision, Hold)
    assert says in change.decision.reason
    with pytest.raises(Refused, match="fed by 'telemetry'"):
        store.ingest(readings, sample(2, 10), producer="other")
    store.ingest(readings, sample(3, 10, first=5_000), producer="telemetry")


def test_new_times_ids_and_counters_are_no_difference(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    rows = sample(1).with_columns(odometer=pl.col("number") * 10)
    store.ingest(readings, rows)
    later = sample(2, first=50_000).with_columns(odometer=pl.col("number") * 10)
    change = store.replace_producer(readings, later, producer="v2")
    assert isinstance(change.decision, Act), change.decision.reason
    store.close()


def test_a_hold_can_be_forced_and_says_who_and_why(store: FeatureStore) -> None:
    hot = sample(2).with_columns(pl.col("heat") + 30)
    change = store.replace_producer(readings, hot, producer="desert", force=("ada", "the plant moved"))
    assert change.accepted
    assert change.forced_by == "ada"
    assert change.decision.reason == "forced by ada: the plant moved"
    assert str(change.decision.evidence["policy_said"]).startswith("hold: column 'heat'")
    assert store.producers(readings)[-1] == change
    with pytest.raises(InvalidInput, match="both must be said"):
        store.replace_producer(readings, hot, producer="desert", force=("ada", ""))


def test_a_sample_that_ingest_would_refuse_cannot_be_forced(store: FeatureStore) -> None:
    with pytest.raises(Refused, match="ingest would refuse the sample, so it cannot be forced: heat: is missing"):
        store.replace_producer(readings, sample(2).drop("heat"), producer="v2", force=("ada", "trust me"))
    assert len(store.producers(readings)) == 1


def test_the_sample_itself_is_not_ingested(store: FeatureStore) -> None:
    store.replace_producer(readings, sample(2, first=2_000), producer="v2")
    assert store.describe(readings).sketch.rows == 2_000


def test_a_batch_that_names_no_producer_is_not_checked_and_a_refused_batch_names_none(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(InvalidInput, match="is missing"):
        store.ingest(readings, sample(1).drop("machine"), producer="broken")
    store.ingest(readings, sample(1))
    assert store.producers(readings) == []
    store.ingest(readings, sample(1, 10), producer="telemetry")
    store.ingest(readings, sample(2, 10, first=3_000))
    assert [change.producer for change in store.producers(readings)] == ["telemetry"]
    store.close()


def test_a_producer_without_a_name_and_a_source_that_is_not_there_are_refused(store: FeatureStore) -> None:
    with pytest.raises(InvalidInput, match="a producer has a name"):
        store.replace_producer(readings, sample(2), producer=" ")
    with pytest.raises(InvalidInput, match="a producer has a name"):
        store.ingest(readings, sample(2), producer="")
    with pytest.raises(NotFound, match="There is no source 'reading'"):
        store.replace_producer(F.source("reading", key="machine", time="read_at"), sample(2), producer="v2")
