"""`features.describe`: of what, and what a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import InvalidInput, NotFound
from mlplat.features.description import BINS, Description, sparkline
from mlplat.features.store import FeatureStore
from mlplat.stats import ColumnSketch, TableSketch
from tests.features.support import START, after, open_store

HOUR = 3_600
COUNT = 3_000

visits = F.source("visits", key="who", time="at", id="n", description="Who came.", owner="door", tags=("raw",))


@F.view(visits, owner="ml", tags=("habit", "slow"))
class habits:
    """How often somebody comes."""

    visits_1d = F.count(window="1d")
    spent_1d = F.mean("spent", window="1d")


@F.view(visits)
class newest:
    spent: float = F.latest("spent")
    weather: str = F.latest("sky")


@F.view(visits)
class fresh:
    spent: float = F.latest("spent")
    age_s = F.age()


@F.view(visits, tolerance=1e-6)
class doubled:
    twice: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(twice=pl.col("spent") * 2)


@F.derived(habits, request={"price": float})
class ratio:
    per_price: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(per_price=pl.col("habits.spent_1d") / pl.col("price"))


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    random = np.random.default_rng(2)
    return pl.DataFrame({"n": range(COUNT)}).with_columns(
        who=pl.format("p{}", pl.col("n") % 30),
        at=pl.lit(START) + pl.duration(minutes=4 * pl.col("n")),
        spent=pl.when(pl.col("n") % 10 == 0).then(None).otherwise(pl.Series(random.gamma(2, 5, COUNT))),
        sky=pl.when(pl.col("n") % 4 == 1).then(pl.lit("grey")).otherwise(pl.lit("clear")),
        member=pl.col("n") % 4 == 0,
    )


@pytest.fixture(scope="module")
def store(events: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    opened = open_store(tmp_path_factory.mktemp("home"))
    opened.ingest(visits, events)
    opened.apply(habits, newest, fresh, doubled, ratio)
    yield opened
    opened.close()


def test_a_source_is_described_for_people(store: FeatureStore) -> None:
    text = str(store.describe(visits))
    head, *rest = text.split("\n\n")
    assert head.splitlines() == [
        "source 'visits'",
        "description: Who came.",
        "owner: door",
        "tags: raw",
        "3,000 rows of the days 2013-09-01 to 2013-09-09 (UTC)",
    ]
    numbers, times, named = (part.splitlines() for part in rest)
    shown = "column type count nulls min p1 p25 p50 p75 p99 max mean std distinct p1 to p99"
    assert numbers[0].split() == shown.split()
    assert numbers[2].split()[:4] == ["spent", "float64", "2,700", "10.00%"]
    assert times[1].split()[:8] == ["at", "timestamp", "3,000", "0.00%", "2013-09-01", "00:00", "2013-09-05", "03:56"]
    assert next(line for line in named if line.startswith("sky")).endswith("2  clear 75.0%, grey 25.0%")
    assert next(line for line in named if line.startswith("member")).endswith("2  false 75.0%, true 25.0%")
    assert max(map(len, text.splitlines())) < 160


def test_the_numbers_are_those_of_the_rows(store: FeatureStore, events: pl.DataFrame) -> None:
    table = store.describe("visits").to_polars()
    spent = events["spent"]
    found = table.row(by_predicate=pl.col("column") == "spent", named=True)
    assert (found["count"], found["nulls"], found["min"], found["max"]) == (2_700, 0.1, spent.min(), spent.max())
    assert found["mean"] == pytest.approx(spent.mean())
    assert found["std"] == pytest.approx(spent.std())
    rank = (spent.drop_nulls() <= found["p50"]).mean()
    assert rank == pytest.approx(0.5, abs=0.04)
    sky = table.row(by_predicate=pl.col("column") == "sky", named=True)
    assert (sky["distinct"], sky["mean"]) == (pytest.approx(2, abs=0.01), None)
    assert sky["top"][0]["value"] == "clear"


def test_days_can_be_chosen(store: FeatureStore) -> None:
    days = store.describe(visits, since=after(24 * HOUR), until=after(48 * HOUR))
    assert days.rows == "360 rows of the days 2013-09-02 to 2013-09-02 (UTC)"
    assert store.describe(visits, until=START).rows == "no events"


def test_a_view_of_rows_is_described_from_what_is_kept_under_its_own_names(store: FeatureStore) -> None:
    described = store.describe(newest)
    assert list(described.sketch.columns) == ["spent", "weather"]
    assert described.rows == "3,000 rows of the days 2013-09-01 to 2013-09-09 (UTC)"
    made = store.describe("doubled")
    assert made.about["tolerance"] == "1e-06, relative"
    assert made.subject == f"view 'doubled', version {doubled.version}, of source 'visits'"
    assert made.sketch.columns["twice"].mean == pytest.approx(2 * described.sketch.columns["spent"].mean)


def test_windows_and_ages_are_described_from_a_sample_read_at_the_events(
    store: FeatureStore, events: pl.DataFrame
) -> None:
    described = store.describe(habits)
    assert described.rows == "a sample of 2,000 of 3,000 events, each read when it was known"
    assert {k: v for k, v in described.about.items() if v} == {
        "description": "How often somebody comes.",
        "owner": "ml",
        "tags": "habit, slow",
    }
    assert described.sketch.columns["visits_1d"].high == 12
    assert described.to_polars().equals(store.describe(habits.ref).to_polars())
    small = store.describe(fresh, since=after(HOUR), until=after(2 * HOUR))
    assert small.rows == "a sample of 15 of 15 events, each read when it was known"
    assert (small.sketch.columns["age_s"].low, small.sketch.columns["age_s"].high) == (0.0, 0.0)


def test_a_training_set_is_described(store: FeatureStore, events: pl.DataFrame) -> None:
    labels = events.select("who", asked_at="at", late=pl.col("member").cast(pl.Int64))
    data = store.training_set("late", labels, [habits], label="late", time="asked_at")
    described = store.describe(data)
    assert described.rows == "3,000 rows, label 'late', time 'asked_at'"
    assert described.sketch.columns["habits.visits_1d"].rows == COUNT
    with pytest.raises(InvalidInput, match="described whole: leave since and until out"):
        store.describe(data, since=START)


@pytest.mark.slow
def test_pushed_events_and_new_batches_are_in_the_next_description(tmp_path: Path, events: pl.DataFrame) -> None:
    store = open_store(tmp_path)
    store.apply(doubled, habits)
    assert str(store.describe(visits)).endswith("no events")
    assert str(store.describe(habits)).endswith("no events yet")
    assert store.describe(doubled).sketch.columns == {}
    store.ingest(visits, events.head(5))
    store.push(visits, events.row(7, named=True))
    assert store.describe(visits).sketch.rows == 6
    assert store.describe(doubled).sketch.rows == 6
    store.close()


def test_late_rows_are_read_when_they_were_known(tmp_path: Path, events: pl.DataFrame) -> None:
    late = F.source("late", key="who", time="at", id="n", created="told_at")

    @F.view(late)
    class told:
        spent: float = F.latest("spent")
        age_s = F.age()

    store = open_store(tmp_path)
    store.apply(told)
    store.ingest(late, events.head(30).with_columns(told_at=pl.col("at") + pl.duration(hours=5)))
    found = store.describe(told).sketch.columns
    assert (found["age_s"].nulls, found["age_s"].low) == (0, 5.0 * HOUR)
    store.close()


def test_a_version_that_is_made_again_after_it_was_retired_is_counted_anew(
    tmp_path: Path, events: pl.DataFrame
) -> None:
    store = open_store(tmp_path)
    store.ingest(visits, events.head(5))
    for _ in range(2):
        store.apply(doubled)
        assert store.describe(doubled).sketch.rows == 5
        store.retire(doubled)
    assert list((tmp_path / "statistics" / "views").glob("*.stats")) == []
    store.close()


def test_a_source_that_was_deleted_and_begun_again_is_counted_anew(tmp_path: Path, events: pl.DataFrame) -> None:
    store = open_store(tmp_path)
    for rows in (5, 3):
        store.ingest(visits, events.head(rows))
        assert store.describe(visits).sketch.rows == rows
        store.delete(visits)
    store.close()


def test_what_cannot_be_described_is_refused(store: FeatureStore) -> None:
    with pytest.raises(InvalidInput, match="view 'ratio' is computed of requests when it is read: describe a training"):
        store.describe(ratio)
    with pytest.raises(InvalidInput, match="has no time zone"):
        store.describe(visits, since=START.replace(tzinfo=None))
    with pytest.raises(NotFound, match=r"There is no source 'visitz'. Did you mean 'visits'"):
        store.describe(F.source("visitz", key="who", time="at"))
    with pytest.raises(NotFound, match=r"There is no view 'habit'. Did you mean 'habits'"):
        store.describe("habit")


def test_a_notebook_shows_the_same(store: FeatureStore) -> None:
    html = store.describe(visits)._repr_html_()
    assert html.startswith("<pre>")
    assert "font-weight: bold" in html
    assert "clear 75.0%" in html


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([1.0, 1.0], "█"),
        ([], ""),
        ([0, 0, 0, 1], "█▄"),
        ([0] * 30 + [2] * 10, "█▁▄"),
    ],
)
def test_a_sparkline_shows_the_shape(values: list[float], bars: str) -> None:
    dtype = pl.Int64 if values and isinstance(values[0], int) else pl.Float64
    assert sparkline(ColumnSketch.of(pl.Series(values, dtype=dtype))) == bars


def test_a_sparkline_of_even_numbers_is_flat() -> None:
    assert sparkline(ColumnSketch.of(pl.Series(np.linspace(0, 1, 161)))).strip("▇█") == ""
    assert len(sparkline(ColumnSketch.of(pl.Series(np.linspace(0, 1, 161))))) == BINS


def test_columns_without_values_are_shown_empty() -> None:
    empty = pl.DataFrame({"x": [None], "s": [None]}, schema={"x": pl.Float64, "s": pl.String})
    text = str(Description(subject="s", rows="r", sketch=TableSketch.of(empty)))
    assert [line.split() for line in text.splitlines() if line.startswith(("x", "s "))] == [
        ["x", "float64", "0", "100.00%", "0"],
        ["s", "string", "0", "100.00%", "0"],
    ]
