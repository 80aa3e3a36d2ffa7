"""Keras networks on Ray's workers: Keras runs on torch there too, and the gradients are the mean over all."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mlplat.clock import SystemClock
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.model import Model
from mlplat.testing.learnable import learnable
from mlplat.train.progress import Silent
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.trainer import TrainedModel, train

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # its own settings
]


def trained(network: Any, data: TrainingSet, home: Path, compute: str, **given: Any) -> TrainedModel:
    found = train(
        data,
        Science(network=network),
        TrainSettings(**{"learning_rate": 1e-2, "holdout_s": 48 * 86_400, **given}),
        demand=Demand.parse(compute),
        metadata=InMemoryMetadata(),
        home=home,
        clock=SystemClock(),
        progress=Silent(),
    )
    assert isinstance(found, TrainedModel)
    return found


def test_two_workers_learn(keras_networks: ModuleType, tmp_path: Path) -> None:
    data = learnable(tmp_path / "data")
    found = trained(keras_networks.embedded, data, tmp_path, "cpu:2", batch_size=128, epochs=2)
    assert found.metrics["auc"] > 0.65


@pytest.mark.soak
def test_gradients_are_the_mean_over_workers_whole_or_in_shares(keras_networks: ModuleType, tmp_path: Path) -> None:
    """One step over all rows: two half batches must move the weights as one whole batch does."""
    data, whole = learnable(tmp_path / "data", rows=2_000), {"batch_size": 100_000, "epochs": 1}

    def weights(way: str, compute: str, **more: Any) -> Model:
        return trained(keras_networks.Subclassed, data, tmp_path / way, compute, **whole, **more).model

    alone = weights("alone", "cpu:0")
    for way in ("ddp", "fsdp"):
        other = weights(way, "cpu:2", parallel=way).weights
        assert all(np.abs(value - other[name]).max() < 2e-4 for name, value in alone.weights.items())
