"""Only what nothing refers to goes, and only once it is old."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import mlplat
from mlplat.errors import NotFound
from mlplat.model import mlp
from mlplat.testing.clock import ManualClock
from mlplat.train import Interrupted, TrainSettings
from mlplat.train.progress import Silent

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = TrainSettings(epochs=1, batch_size=64, holdout_s=3600 * 5)
pytestmark = pytest.mark.slow  # MLflow


def labels(seed: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "shop": [f"s{i % 9}" for i in range(600)],
            "at": [START + timedelta(minutes=i) for i in range(600)],
            "size": [float((i * 7919 + seed) % 101) for i in range(600)],
            "sold": [i * 31 % 7 % 2 for i in range(600)],
        }
    )


def there(home: Path) -> set[str]:
    kept = {"models", "runs", "cache", "training_sets"}
    return {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file() and p.relative_to(home).parts[0] in kept}


def test_what_a_version_or_a_waiting_run_needs_stays_and_the_rest_goes(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    with mlplat.connect(tmp_path / "home", clock=clock) as platform:
        used, waiting, unused = (
            platform.features.training_set(f"n{i}", labels(i), [], label="sold", time="at", request=["size"])
            for i in range(3)
        )
        version = platform.train(mlp((4,)), used, settings=SETTINGS, progress=Silent()).version
        stopped = platform.train(mlp((4,)), waiting, settings=SETTINGS, progress=Silent(), stop=lambda: True)
        assert isinstance(stopped, Interrupted)
        orphan = platform.home / "models" / "n0" / ".unfinished-x"
        orphan.mkdir()
        (orphan / "weights.safetensors").write_bytes(b"x" * 1_000)
        before = there(platform.home)
        assert platform.collect(older_than="1h").items == ()
        clock.advance(timedelta(days=8))
        run = next((platform.home / "runs").iterdir())
        later = (clock.now_us() - 1_000_000) / 1e6
        os.utime(run / "run.json", (later, later))  # somebody went on with it yesterday

        said = platform.collect(dry_run=True)
        assert there(platform.home) == before
        assert [item.kind for item in said.items] == ["artifact", "rows", "rows", "training set"]
        assert "could be removed" in str(said)
        done = platform.collect()
        assert [item.path for item in done.items] == [item.path for item in said.items]
        assert done.size_bytes == said.size_bytes > 1_000
        assert platform.features.training_sets() == [used, waiting]
        assert platform.load(version).digest == version.digest
        with pytest.raises(NotFound):
            mlplat.TrainingSet.load(platform.home, unused.name, unused.snapshot)
        assert not orphan.exists()

        trained = platform.train(mlp((4,)), waiting, settings=SETTINGS, progress=Silent())
        assert trained.version.run_id == stopped.run_id
