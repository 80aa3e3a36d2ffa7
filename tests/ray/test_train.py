"""Training on Ray's workers: the same weights on every run and through every fault, errors in the user's terms, Ctrl-C,
nothing left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks._processes import below
from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput, Unavailable, UserCodeError
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.model import mlp
from mlplat.model.shape import Shape
from mlplat.testing.learnable import learnable
from mlplat.train._ray import learn_on_workers
from mlplat.train.progress import EpochMetrics, Plan, Silent
from mlplat.train.run import Interrupted
from mlplat.train.science import Science
from mlplat.train.settings import Recovery, TrainSettings
from mlplat.train.trainer import TrainedModel, train
from tests.train.support import Greedy, Listening, work

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # its own settings
]

SETTINGS = TrainSettings(batch_size=128, epochs=2, learning_rate=1e-2, holdout_s=48 * 86_400)
LONG = replace(SETTINGS, epochs=20, patience=20, recovery=Recovery(steps=40))
FREE_S = 60.0


class Killing(Listening):
    """The system takes one worker away whenever training begins, so many times, and after this many epochs."""

    def __init__(self, *, times: int = 1, epochs: int = 0) -> None:
        super().__init__()
        self._times, self._after, self._killed = times, epochs, 0

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        self._kill()

    def epoch(self, metrics: EpochMetrics) -> None:
        super().epoch(metrics)
        self._kill()

    def _kill(self) -> None:
        resumed = sum(note.startswith("going on") for note in self.notes)
        again = self._killed < self._times and self._killed == resumed  # those of the last kill are replaced
        if again and len(self.epochs) >= self._after and (workers := below("RayTrainWorker")):
            self._killed += 1
            workers[-1].kill()


class Interrupting(Silent):
    """A user who presses Ctrl-C when training begins."""

    def begin(self, plan: Plan) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def _train(
    data: TrainingSet,
    home: Path,
    *,
    compute: Any = "cpu:2",
    network: Any = None,
    loss: Any = None,
    metadata: InMemoryMetadata | None = None,
    settings: TrainSettings = SETTINGS,
    progress: Silent | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Any:
    return train(
        data,
        Science(network=network or mlp((16,), dropout=0.1), loss=loss),
        settings,
        demand=Demand.parse(compute),
        metadata=metadata or InMemoryMetadata(),
        home=home,
        clock=SystemClock(),
        progress=progress or Silent(),
        stop=stop,
    )


@pytest.fixture(scope="module")
def calm(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A long run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("calm")
    found = _train(learnable(folder / "data"), folder, settings=LONG)
    assert isinstance(found, TrainedModel)
    return found


def _left(home: Path) -> list[str]:
    runs = home / "runs"
    return [path.name for path in runs.iterdir()] if runs.exists() else []


def test_two_workers_learn_and_tell_of_it(tmp_path: Path) -> None:
    listening, metadata = Listening(), InMemoryMetadata()
    trained = _train(learnable(tmp_path / "data"), tmp_path, progress=listening, metadata=metadata)
    assert trained.metrics["auc"] > 0.65
    assert tuple(listening.epochs) == trained.history
    assert listening.plans[0].rows_per_step == 128
    assert metadata.run(trained.version.run_id)["status"] == "FINISHED"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert _left(tmp_path) == []


def test_gradients_are_the_mean_over_workers_whole_or_in_shares(tmp_path: Path) -> None:
    """One step over all rows: without dropout, two half batches must move the weights as one whole batch does."""
    data = learnable(tmp_path / "data", rows=2_000)
    whole = replace(SETTINGS, batch_size=100_000, epochs=1)
    ways = {"alone": ("cpu:0", whole), "ddp": ("cpu:2", whole), "fsdp": ("cpu:2", replace(whole, parallel="fsdp"))}
    found = {
        way: _train(data, tmp_path / way, network=mlp((16,)), compute=compute, settings=settings).model.weights
        for way, (compute, settings) in ways.items()
    }
    for way in ("ddp", "fsdp"):
        assert all(np.abs(value - found[way][name]).max() < 2e-4 for name, value in found["alone"].items())


@pytest.mark.soak
def test_a_diverging_run_says_so_without_a_ray_traceback(tmp_path: Path) -> None:
    metadata = InMemoryMetadata()
    wild = replace(SETTINGS, learning_rate=1e35)
    with pytest.raises(InvalidInput, match="in epoch 1, step") as caught:
        _train(learnable(tmp_path / "data"), tmp_path, settings=wild, metadata=metadata)
    assert "ray" not in str(caught.value).lower()
    assert caught.value.__cause__ is None
    assert [run["status"] for run in metadata._runs.values()] == ["FAILED"]
    assert not (tmp_path / "models").exists()
    assert _left(tmp_path) == []


def test_killed_workers_are_replaced_and_the_weights_are_those_of_a_calm_run(
    tmp_path: Path, calm: TrainedModel
) -> None:
    killing = Killing(times=2, epochs=3)
    found = _train(learnable(tmp_path / "data"), tmp_path, settings=LONG, progress=killing)
    assert found.model.digest == calm.model.digest
    assert len([note for note in killing.notes if note.startswith("going on after step")]) == 2
    assert [m.epoch for m in killing.epochs] == list(range(20))


@pytest.mark.soak
def test_workers_that_are_lost_too_often_end_the_run_and_the_same_call_goes_on(
    tmp_path: Path, calm: TrainedModel
) -> None:
    metadata, data = InMemoryMetadata(), learnable(tmp_path / "data")
    impatient = replace(LONG, recovery=Recovery(steps=40, failures=0))
    with pytest.raises(Unavailable, match=r"workers were lost.*The same call goes on"):
        _train(data, tmp_path, progress=Killing(epochs=2), metadata=metadata, settings=impatient)
    assert [run["status"] for run in metadata._runs.values()] == ["FAILED"]
    listening = Listening()
    found = _train(data, tmp_path, metadata=metadata, settings=impatient, progress=listening)
    assert [run["status"] for run in metadata._runs.values()] == ["FINISHED"]
    assert found.model.digest == calm.model.digest
    assert listening.epochs[0].epoch >= 2
    assert _left(tmp_path) == []


@pytest.mark.soak
def test_a_run_that_is_stopped_goes_on_in_shares_too(tmp_path: Path) -> None:
    """FSDP2: its states are gathered, and cut again."""
    data, metadata, listening = learnable(tmp_path / "data"), InMemoryMetadata(), Listening()
    sharded = replace(LONG, parallel="fsdp", epochs=4)
    stopped = _train(
        data, tmp_path, metadata=metadata, settings=sharded, progress=listening, stop=lambda: len(listening.epochs) > 0
    )
    assert isinstance(stopped, Interrupted)
    assert metadata.run(stopped.run_id)["status"] == "SCHEDULED"
    found = _train(data, tmp_path, metadata=metadata, settings=sharded)
    whole = _train(data, tmp_path / "whole", settings=sharded)
    assert found.version.run_id == stopped.run_id
    assert found.model.digest == whole.model.digest


class Failing(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.body = nn.Linear(shape.numbers + 1, shape.outputs)

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(numeric)  # one column too few
        return out


def test_an_error_of_the_users_code_names_its_line(tmp_path: Path) -> None:
    one = work(tmp_path, science=Science(network=Failing))
    one.folder.mkdir()
    with pytest.raises(
        UserCodeError, match=r"worker \d raised RuntimeError: .*\n  at .*test_train\.py:\d+: out: torch"
    ):
        learn_on_workers(one, Demand.parse("cpu:2"), Silent(), lambda: False)


@pytest.mark.soak
def test_a_worker_without_memory_is_named_and_the_same_call_goes_on(tmp_path: Path, calm: TrainedModel) -> None:
    data, metadata, full = learnable(tmp_path / "data"), InMemoryMetadata(), tmp_path / "full"
    full.write_text("200")
    listening = Listening()
    with pytest.raises(
        UserCodeError,
        match=r"worker 1 of 2 ran out of memory, with 64 rows at a time: RuntimeError: .*can't allocate memory.*\n"
        r"  at .*support\.py:\d+: torch\.empty\(TOO_MUCH\)\n.*a batch_size below 128; accumulate=2, .*fsdp",
    ) as caught:
        _train(data, tmp_path, loss=Greedy(full), settings=LONG, metadata=metadata, progress=listening)
    assert caught.value.__cause__ is None
    assert len(listening.plans) == 1  # it would come again: no second try
    full.unlink()
    found = _train(data, tmp_path, loss=Greedy(full), settings=LONG, metadata=metadata, progress=listening)
    assert found.model.digest == calm.model.digest
    assert listening.plans[1].done >= 200 - 2 * 40
    assert [run["status"] for run in metadata._runs.values()] == ["FINISHED"]


def test_workers_get_any_resource_that_the_cluster_has(tmp_path: Path) -> None:
    data = learnable(tmp_path / "data", rows=1_000)
    found = _train(data, tmp_path, compute={"workers": 2, "CPU": 1, "FPGA": 1}, settings=replace(SETTINGS, epochs=1))
    assert isinstance(found, TrainedModel)


def test_ctrl_c_frees_the_workers_and_the_same_home_trains_again(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background has none
    data, metadata = learnable(tmp_path / "data"), InMemoryMetadata()
    import ray  # two seconds that the tests without Ray need not wait

    total = ray.cluster_resources()["CPU"]
    with pytest.raises(KeyboardInterrupt):
        _train(
            data,
            tmp_path,
            progress=Interrupting(),
            metadata=metadata,
            settings=replace(SETTINGS, epochs=10_000, patience=10_000),
        )
    assert [run["status"] for run in metadata._runs.values()] == ["KILLED"]
    clock = SystemClock()
    until = clock.elapsed_s() + FREE_S
    while ray.available_resources().get("CPU", 0) < total:
        assert clock.elapsed_s() < until, "the workers were not freed"
    assert _train(data, tmp_path, compute="cpu:1", metadata=metadata).version.version == 1
