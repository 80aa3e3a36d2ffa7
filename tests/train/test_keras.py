"""Keras networks in training: they learn, and a run that is stopped is the undisturbed one."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mlplat.clock import SystemClock
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.model import Exported, Recorded
from mlplat.testing.learnable import learnable
from mlplat.train.gang import Alone
from mlplat.train.progress import Silent
from mlplat.train.science import Keep, Science
from mlplat.train.session import learn
from mlplat.train.settings import Recovery
from mlplat.train.trainer import TrainedModel, train
from mlplat.train.work import Learned, Yielded
from tests.train.support import settings, work

pytestmark = pytest.mark.slow  # Keras takes seconds to import, torch.export to start


@pytest.mark.parametrize(("keep", "kind"), [("program", Exported), ("code", Recorded)])
def test_it_learns_and_is_kept(keras_networks: ModuleType, tmp_path: Path, keep: Keep, kind: type) -> None:
    trained = train(
        learnable(tmp_path / "data"),
        Science(network=keras_networks.embedded, keep=keep),
        settings(),
        demand=Demand.parse("cpu:0"),
        metadata=InMemoryMetadata(),
        home=tmp_path,
        clock=SystemClock(),
        progress=Silent(),
    )
    assert isinstance(trained, TrainedModel)
    assert trained.metrics["auc"] > 0.7
    assert isinstance(trained.model.network, kind)


def test_a_run_that_is_stopped_again_and_again_is_the_undisturbed_run(
    keras_networks: ModuleType, tmp_path: Path
) -> None:
    one = work(
        tmp_path, made={"rows": 1_500}, science=Science(network=keras_networks.embedded), recovery=Recovery(steps=8)
    )

    def run(stop_at: int) -> Learned | Yielded:
        asked = iter(range(1, 10_000))
        return learn(one, Alone(), Silent(), SystemClock(), lambda: next(asked) == stop_at)

    undisturbed = run(0)
    shutil.rmtree(one.folder)
    stops, found = 0, run(2)
    while isinstance(found, Yielded):
        stops, found = stops + 1, run(3)
    assert stops > 1
    assert isinstance(undisturbed, Learned)
    assert undisturbed.weights.keys() == found.weights.keys()
    assert all(np.array_equal(value, found.weights[name]) for name, value in undisturbed.weights.items())
