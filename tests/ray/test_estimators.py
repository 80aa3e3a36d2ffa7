"""Estimators on a worker of the cluster, and behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
import pytest

import mlplat
from mlplat.errors import UserCodeError
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from tests.train.estimators import Breaks, Rates

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # its own settings
]

SETTINGS = TrainSettings(holdout_s=10 * 24 * 3600)
ONE = {"workers": 1, "CPU": 1}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[mlplat.Platform]:
    with mlplat.connect(tmp_path / "home") as platform:
        yield platform


@pytest.fixture
def data(platform: mlplat.Platform) -> mlplat.TrainingSet:
    random = np.random.default_rng(7)
    rows, start = 5_000, datetime(2026, 1, 1, tzinfo=UTC)
    size, colour = random.normal(size=rows), random.choice(["red", "green", "blue"], rows)
    chance = 1 / (1 + np.exp(-2 * size - 1.5 * (colour == "red")))
    labels = pl.DataFrame(
        {
            "shop": [f"s{i % 50}" for i in range(rows)],
            "at": [start + timedelta(minutes=10 * i) for i in range(rows)],
            "size": size,
            "c1": colour,
            "sold": (random.random(rows) < chance).astype(int),
        }
    )
    return platform.features.training_set("sold", labels, [], label="sold", time="at", request=["size", "c1"])


@pytest.mark.soak
def test_a_worker_fits_what_this_process_would(platform: mlplat.Platform, data: mlplat.TrainingSet) -> None:
    here = platform.train(Rates(), data, settings=SETTINGS, progress=Silent())
    there = platform.train(Rates(), data, settings=SETTINGS, compute=ONE, progress=Silent())
    assert there.version == here.version
    assert there.metrics == here.metrics
    with pytest.raises(UserCodeError, match=r"Breaks\.fit raised ZeroDivisionError: of 2 columns"):
        platform.train(Breaks(), data, settings=SETTINGS, compute=ONE, progress=Silent())


def test_an_endpoint_answers_with_boosting_and_with_code_of_one_s_own(
    platform: mlplat.Platform, data: mlplat.TrainingSet
) -> None:
    boosting = lightgbm.LGBMClassifier(n_estimators=30, num_leaves=7, verbose=-1)
    rows = [{"size": 0.5, "c1": "red"}, {"size": -1.5, "c1": "new"}]
    for estimator in (boosting, Rates()):
        trained = platform.train(estimator, data, settings=SETTINGS, progress=Silent())
        promoted = platform.promote(trained, force=("a test", "each in turn"))
        platform.metadata.set_alias("sold", "gold", promoted.version.version)
        endpoint = platform.serve("sold")
        wanted = trained.model.predict({"size": [0.5, -1.5], "c1": ["red", "new"]})["probability"]
        answers = [prediction.outputs["probability"] for prediction in endpoint.predict(rows)]
        assert answers == pytest.approx(list(wanted), abs=1e-6)
    platform.undeploy("sold")
