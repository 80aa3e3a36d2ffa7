"""Training on Ray's workers: the same weights on every run, errors in the user's terms, Ctrl-C, nothing left behind."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput, Unavailable, UserCodeError
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.model import mlp
from mlplat.testing.learnable import learnable
from mlplat.train.progress import EpochMetrics, Plan, Silent
from mlplat.train.settings import TrainSettings
from mlplat.train.trainer import TrainedModel, train

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # its own settings
]

SETTINGS = TrainSettings(batch_size=128, epochs=2, learning_rate=1e-2, holdout_s=48 * 86_400)
FREE_S = 60.0


class Listening(Silent):
    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.epochs: list[EpochMetrics] = []

    def begin(self, plan: Plan) -> None:
        self.plans.append(plan)

    def epoch(self, metrics: EpochMetrics) -> None:
        self.epochs.append(metrics)


class Killing(Silent):
    """The system takes one worker away when training begins."""

    def begin(self, plan: Plan) -> None:
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        workers[-1].kill()


class Interrupting(Silent):
    """A user who presses Ctrl-C when training begins."""

    def begin(self, plan: Plan) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def _train(
    data: TrainingSet,
    home: Path,
    *,
    count: int = 2,
    metadata: InMemoryMetadata | None = None,
    settings: TrainSettings = SETTINGS,
    progress: Silent | None = None,
) -> TrainedModel:
    return train(
        data,
        mlp((16,), dropout=0.1),
        settings,
        demand=Demand(device="cpu", count=count),
        metadata=metadata or InMemoryMetadata(),
        home=home,
        clock=SystemClock(),
        progress=progress or Silent(),
    )


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


def test_gradients_are_the_mean_over_workers(tmp_path: Path) -> None:
    """One step over all rows: without dropout, two half batches must move the weights as one whole batch does."""
    data = learnable(tmp_path / "data", rows=2_000)
    whole = replace(SETTINGS, batch_size=100_000, epochs=1)
    results = [
        train(
            data,
            mlp((16,)),
            whole,
            demand=Demand(device="cpu", count=count),
            metadata=InMemoryMetadata(),
            home=tmp_path / str(count),
            clock=SystemClock(),
            progress=Silent(),
        )
        for count in (0, 2)
    ]
    alone, shared = (result.model.weights for result in results)
    odd = results[0].history[0].train_loss  # one row fewer is learnt where the rows are not even
    assert results[1].history[0].train_loss == pytest.approx(odd, rel=0.2)
    assert all(np.abs(alone[name] - shared[name]).max() < 2e-4 for name in alone)


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


def test_a_lost_worker_ends_the_run_as_unavailable(tmp_path: Path) -> None:
    metadata, long = InMemoryMetadata(), replace(SETTINGS, epochs=10_000, patience=10_000)
    with pytest.raises(Unavailable, match="workers were lost"):
        _train(learnable(tmp_path / "data"), tmp_path, progress=Killing(), metadata=metadata, settings=long)
    assert [run["status"] for run in metadata._runs.values()] == ["FAILED"]
    assert _left(tmp_path) == []


def test_ctrl_c_frees_the_workers_and_the_same_home_trains_again(tmp_path: Path) -> None:
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
    assert _left(tmp_path) == []
    clock = SystemClock()
    until = clock.elapsed_s() + FREE_S
    while ray.available_resources().get("CPU", 0) < total:
        assert clock.elapsed_s() < until, "the workers were not freed"
    assert _train(data, tmp_path, count=1, metadata=metadata).version.version == 1


def test_another_error_names_file_and_line(tmp_path: Path) -> None:
    from mlplat.train._ray import learn_on_workers
    from mlplat.train.shards import Work

    data = learnable(tmp_path / "data")
    broken = Work(
        path=data.path,
        label=data.label,
        time=data.time,
        cut_us=0,
        architecture=mlp((16,)),
        encoding=None,  # type: ignore[arg-type]
        settings=SETTINGS,
    )
    with pytest.raises(UserCodeError, match=r"worker \d raised AttributeError.*\n  at .*shards\.py:\d+"):
        learn_on_workers(broken, Demand(device="cpu", count=2), tmp_path / "runs" / "r1", Silent())
