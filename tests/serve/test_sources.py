"""The log as a source of the feature store: files come into the table once, whatever is killed, and none is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.errors import NotFound
from mlplat.features.store import FeatureStore
from mlplat.serve.log import Layout, PredictionLog, Record, read_log
from mlplat.serve.sources import landed, of_arm, predictions_of
from tests.features.support import open_store
from tests.serve.models import SIGNATURE

START = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE = predictions_of("late")


@pytest.fixture
def features(tmp_path: Path) -> Iterator[FeatureStore]:
    store = open_store(tmp_path)
    yield store
    store.close()


def rows(first: int, count: int, **more: Any) -> pl.DataFrame:
    """Rows of the log, which came a minute after one another."""
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "prediction_id": [f"p{i}" for i in numbers],
            "received_at": [START + timedelta(minutes=i) for i in numbers],
            "size": [i / 2 for i in numbers],
            **{name: [value] * count for name, value in more.items()},
        }
    ).with_columns(pl.col("received_at").dt.cast_time_unit("us"))


def write(home: Path, frame: pl.DataFrame, name: str) -> None:
    folder = home / "log" / "late"
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / f"{name}.parquet")


def land(features: FeatureStore, home: Path) -> pl.DataFrame:
    return landed(features, SOURCE, home / "log" / "late")


def files(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "log" / "late").glob("*"))


def test_what_replicas_wrote_is_an_event_of_the_source_and_its_file_is_gone(
    features: FeatureStore, tmp_path: Path
) -> None:
    log = PredictionLog(tmp_path, every_s=3600.0)
    layout = Layout.of(SIGNATURE)
    line = [f"v{i}" if field.type == "string" else None for i, field in enumerate(layout.schema)]
    line[:4] = ["p1", "r1", 1_000, 2_000]
    log.append(Record(name="late", schema=layout.schema, lines=[tuple(line)]))
    log.close()
    before = pl.DataFrame(read_log(tmp_path, "late"))
    found = land(features, tmp_path)
    assert found.select(before.columns).equals(before)
    assert files(tmp_path) == []
    assert features.datasets() == ["predictions.late"]
    assert features.dataset("predictions.late").rows == 1
    assert land(features, tmp_path).equals(found)


def test_nothing_was_served(features: FeatureStore, tmp_path: Path) -> None:
    assert land(features, tmp_path).columns == []
    assert features.datasets() == []


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans(), st.booleans()), max_size=6))
def test_the_table_and_the_files_together_are_all_that_was_logged(
    parts: list[tuple[int, bool, bool, bool]],
) -> None:
    """Against all files read at once: files come one by one, some are landed between, some landings were killed after the
    rows were in the table, and versions of the model have columns of their own."""
    with TemporaryDirectory() as folder:
        home, all_of_it = Path(folder) / "home", Path(folder) / "all"
        features, first = open_store(home), 0
        for count, landing, killed, wider in parts:
            frame = rows(first, count, **({"wind": 0.5} if wider else {}))
            first += count
            for place in (home, all_of_it):
                write(place, frame, f"{first:03d}")
            if landing:
                shutil.copytree(home / "log", Path(folder) / "log", dirs_exist_ok=True)
                land(features, home)
                if killed:
                    shutil.copytree(Path(folder) / "log", home / "log", dirs_exist_ok=True)
                shutil.rmtree(Path(folder) / "log")
        found, wanted = land(features, home), pl.DataFrame(read_log(all_of_it, "late"))
        assert found.select(wanted.columns).equals(wanted)
        assert files(home) == []
        features.close()


def test_a_file_that_the_table_cannot_take_stays_and_is_read_and_keeps_no_other_out(
    features: FeatureStore, tmp_path: Path
) -> None:
    write(tmp_path, rows(0, 2), "a")
    land(features, tmp_path)
    write(tmp_path, rows(2, 1).with_columns(pl.lit("large").alias("size")), "b")
    write(tmp_path, rows(3, 1).with_columns(pl.lit(float("inf")).alias("size")), "c")
    write(tmp_path, rows(4, 1), "d")
    for _ in range(2):
        found = land(features, tmp_path)
        assert found["prediction_id"].to_list() == ["p0", "p1", "p2", "p3", "p4"]
        assert found["size"].to_list() == ["0.0", "0.5", "large", "inf", "2.0"]
        assert files(tmp_path) == ["b.refused.parquet", "c.refused.parquet"]
    assert features.dataset("predictions.late").rows == 3


def test_several_that_read_at_once_all_see_everything_once(features: FeatureStore, tmp_path: Path) -> None:
    for i in range(8):
        write(tmp_path, rows(i, 1), f"{i}")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: land(features, tmp_path), range(4)))
    assert all(frame.equals(found[0]) for frame in found)
    assert found[0].height == features.dataset("predictions.late").rows == 8


@pytest.mark.slow
def test_views_and_statistics_are_made_of_it_as_of_any_source(features: FeatureStore, tmp_path: Path) -> None:
    write(tmp_path, rows(0, 50, shop="s1", arm="gold"), "a")
    land(features, tmp_path)
    asked = F.view(SOURCE, key="shop")(type("asked", (), {"asked_10m": F.count(window="10m")}))
    features.apply(asked)
    when = pl.DataFrame({"shop": ["s1"], "at": [START + timedelta(minutes=30)]})
    assert features.join(when, [asked], time="at")["asked.asked_10m"].to_list() == [10]
    write(tmp_path, rows(50, 50, shop="s1", arm="new"), "b")
    land(features, tmp_path)
    described = features.describe("predictions.late")
    assert described.sketch.rows == 100
    assert described.sketch.columns["size"].high == 49.5
    assert {item.value for item in described.sketch.columns["arm"].top(2)} == {"gold", "new"}
    assert features.describe("predictions.late", until=START).sketch.rows == 0


def test_an_arm_is_described_by_its_own_rows() -> None:
    log = pl.concat([rows(0, 50, arm="gold"), rows(50, 30, arm="new")])
    half = START + timedelta(minutes=60)
    for since, until, wanted in ((None, None, range(50, 80)), (half, None, range(60, 80)), (None, half, range(50, 60))):
        found = of_arm(log, SOURCE, "new", since=since, until=until).sketch
        assert (found.rows, found.columns["size"].low) == (len(wanted), wanted[0] / 2)
    with pytest.raises(NotFound, match=r"no arm in 'predictions.late' 'shadow'. Known: gold, new"):
        of_arm(log, SOURCE, "shadow", since=None, until=None)
    with pytest.raises(NotFound):
        of_arm(pl.DataFrame(), SOURCE, "gold", since=None, until=None)


@pytest.mark.slow
def test_many_small_files_become_few_by_themselves(
    features: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplat.serve.sources.COMPACT_EVERY", 4)
    for i in range(10):
        write(tmp_path, rows(i, 1), f"{i}")
        found = land(features, tmp_path)
    assert found["prediction_id"].to_list() == [f"p{i}" for i in range(10)]
    assert features.dataset("predictions.late").files < 5
