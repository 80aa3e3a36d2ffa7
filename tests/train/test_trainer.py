"""A whole run in this process: what it keeps, what it records, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from mlplat.clock import SystemClock
from mlplat.config import environment
from mlplat.errors import InvalidInput, Unavailable
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.model import Architecture, mlp
from mlplat.model.artifact import load
from mlplat.testing.learnable import learnable, write
from mlplat.train import Shape
from mlplat.train.progress import EpochMetrics, Progress, Silent
from mlplat.train.run import Interrupted
from mlplat.train.science import Science
from mlplat.train.settings import Recovery, TrainSettings
from mlplat.train.trainer import TrainedModel, train
from tests.train.support import Listening

HERE = Demand.parse("cpu:0")
SETTINGS = TrainSettings(batch_size=128, epochs=2, learning_rate=1e-2, holdout_s=48 * 86_400)


def run(
    data: TrainingSet,
    home: Path,
    metadata: InMemoryMetadata,
    *,
    settings: TrainSettings = SETTINGS,
    architecture: Architecture | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Any:
    return train(
        data,
        Science(network=architecture or mlp((16,))),
        settings,
        demand=HERE,
        metadata=metadata,
        home=home,
        clock=SystemClock(),
        progress=progress or Silent(),
        code=home,
        stop=stop,
    )


def _changed(data: TrainingSet, **columns: Any) -> TrainingSet:
    table = data.table()
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    path = data.path.with_name("changed.arrow")
    features = data.features[0].fields
    return write(table, path, name=data.name, snapshot="changed", request=data.request, features=features)


def test_a_run_saves_registers_and_records(tmp_path: Path) -> None:
    metadata, data = InMemoryMetadata(), learnable(tmp_path / "data")
    trained = run(data, tmp_path, metadata)
    assert trained.metrics["auc"] > 0.65
    assert trained.version == metadata.version("late", 1)
    assert Path(trained.version.path) == tmp_path / "models" / "late" / trained.model.digest
    found = load(Path(trained.version.path), digest=trained.version.digest)
    assert found.model == trained.model
    assert found.golden.difference(found.model) <= 1e-6
    record = metadata.run(trained.version.run_id)
    assert (record["name"], record["status"]) == ("late", "FINISHED")
    assert record["params"]["seed"] == "0"
    assert record["params"]["learning_rate"] == "0.01"
    assert record["tags"]["snapshot"] == data.snapshot
    assert record["metrics"]["best_log_loss"] == pytest.approx(trained.metrics["log_loss"])
    assert len(trained.history) == 2
    assert metadata.alias("late", "gold") is None


def test_the_metrics_are_those_of_the_kept_weights(tmp_path: Path) -> None:
    metadata, data = InMemoryMetadata(), learnable(tmp_path / "data")
    trained = run(data, tmp_path, metadata)
    table = data.table()
    late = table["time"].cast(pa.int64()).to_numpy() >= int(
        metadata.run(trained.version.run_id)["tags"]["holdout_start_us"]
    )
    labels = table["label"].to_numpy()[late]
    p = trained.model.predict(table)["probability"][late]
    log_loss = -np.mean(np.where(labels == 1, np.log(p), np.log(1 - p)))
    assert log_loss == pytest.approx(trained.metrics["log_loss"], abs=1e-6)


@pytest.mark.slow
def test_the_same_run_again_is_the_same_version(tmp_path: Path) -> None:
    metadata, data = InMemoryMetadata(), learnable(tmp_path / "data")
    first, second = run(data, tmp_path, metadata), run(data, tmp_path, metadata)
    assert first.version == second.version
    assert len(list((tmp_path / "models" / "late").iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": [None] + [0, 1] * 250 + [1] * 499}, "'label' is null"),
        ({"label": [1] * 1_000}, "'label' is 1 in all"),
        ({"label": [3] * 1_000}, "'label' is 3"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused_and_nothing_is_recorded(
    tmp_path: Path, change: dict[str, list[Any]], says: str
) -> None:
    metadata = InMemoryMetadata()
    with pytest.raises(InvalidInput, match=says):
        run(_changed(learnable(tmp_path / "data", rows=1_000), **change), tmp_path, metadata)
    assert metadata._runs == {}
    assert not (tmp_path / "models").exists()


def test_an_absent_label_and_an_empty_holdout_are_refused(tmp_path: Path) -> None:
    data = learnable(tmp_path / "data", rows=500)
    with pytest.raises(InvalidInput, match="label column 'arrived_late' is absent"):
        run(replace(data, label="arrived_late"), tmp_path, InMemoryMetadata())
    everything = replace(SETTINGS, holdout_s=400 * 86_400)
    with pytest.raises(InvalidInput, match="holdout_s"):
        run(data, tmp_path, InMemoryMetadata(), settings=everything)


def test_a_training_set_without_inputs_is_refused(tmp_path: Path) -> None:
    data = replace(learnable(tmp_path / "data", rows=500), request=(), features=())
    with pytest.raises(InvalidInput, match="nothing to learn from"):
        run(data, tmp_path, InMemoryMetadata())


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_that_ends_early_is_recorded_and_leaves_no_artifact(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    ended = []

    class Breaking(Silent):
        def epoch(self, metrics: EpochMetrics) -> None:
            raise error

        def end(self) -> None:
            ended.append(True)

    metadata = InMemoryMetadata()
    with pytest.raises(type(error)):
        run(learnable(tmp_path / "data", rows=500), tmp_path, metadata, progress=Breaking())
    assert [r["status"] for r in metadata._runs.values()] == [status]
    assert ended == [True]
    assert not (tmp_path / "models").exists()
    assert metadata.names() == []


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_in_the_same_call_and_is_one_run(tmp_path: Path) -> None:
    metadata, data = InMemoryMetadata(), learnable(tmp_path / "data")
    whole = run(data, tmp_path / "whole", InMemoryMetadata())
    stopped = run(data, tmp_path, metadata, stop=lambda: True)
    assert isinstance(stopped, Interrupted)
    assert metadata.run(stopped.run_id)["status"] == "SCHEDULED"
    assert metadata.names() == []
    trained = run(data, tmp_path, metadata)
    assert isinstance(trained, TrainedModel)
    assert trained.version.run_id == stopped.run_id
    assert metadata.run(stopped.run_id)["status"] == "FINISHED"
    assert trained.model.digest == whole.model.digest
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_what_failed_goes_on_and_what_can_never_end_well_begins_anew(tmp_path: Path) -> None:
    metadata, data = InMemoryMetadata(), learnable(tmp_path / "data")

    class Breaking(Silent):
        def epoch(self, metrics: EpochMetrics) -> None:
            raise RuntimeError("the store is away")

    with pytest.raises(RuntimeError, match="away"):
        run(data, tmp_path, metadata, progress=Breaking())
    (failed,) = metadata._runs
    assert run(data, tmp_path, metadata).version.run_id == failed
    wild = replace(SETTINGS, learning_rate=1e35)
    for count in (2, 3):
        with pytest.raises(InvalidInput, match="diverged"):
            run(data, tmp_path, metadata, settings=wild)
        assert len(metadata._runs) == count


@pytest.mark.slow
def test_epochs_that_nobody_was_there_to_record_are_recorded_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may do a few more when their driver is dead."""
    metadata, data = InMemoryMetadata(), learnable(tmp_path / "data")
    settings, listening, asked = replace(SETTINGS, epochs=4), Listening(), iter(range(1_000))
    with monkeypatch.context() as patched:
        patched.setattr("mlplat.train.run.Recording.epoch", lambda self, metrics: None)
        assert isinstance(run(data, tmp_path, metadata, settings=settings, stop=lambda: next(asked) == 2), Interrupted)
    run(data, tmp_path, metadata, settings=settings, progress=listening)
    assert sorted(metrics.epoch for metrics in listening.epochs) == [0, 1, 2, 3]


class Away(InMemoryMetadata):
    """Does not answer these calls; counted from 1, of all calls that a run makes once it has begun."""

    def __init__(self, *away: int) -> None:
        super().__init__()
        self._left, self._calls = set(away), 0

    def _answer(self) -> None:
        self._calls += 1
        if self._calls in self._left:
            raise Unavailable("The metadata database did not answer.")

    def log_metrics(self, *given: Any, **more: Any) -> None:
        self._answer()
        super().log_metrics(*given, **more)

    def register(self, *given: Any, **more: Any) -> Any:
        self._answer()
        return super().register(*given, **more)

    def end_run(self, *given: Any, **more: Any) -> None:
        self._answer()
        super().end_run(*given, **more)


def test_a_metadata_store_that_is_away_for_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplat.train.recording.PAUSE_S", 0.0)
    listening = Listening()
    metadata = Away(1, 2, 3, 4, 8, 9, 11)  # both epochs, and then again at the end, the version, the end of the run
    trained = run(learnable(tmp_path / "data"), tmp_path, metadata, progress=listening)
    assert metadata.run(trained.version.run_id)["status"] == "FINISHED"
    assert metadata.run(trained.version.run_id)["metrics"]["auc"] == pytest.approx(trained.history[-1].held_out["auc"])
    assert listening.notes[0] == "epoch 1 will be recorded later: The metadata database did not answer."
    assert sum(note.startswith("waiting for the metadata store, 180 s at most") for note in listening.notes) >= 2


@pytest.mark.slow
def test_a_store_that_stays_away_ends_the_run_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplat.train.recording.PATIENCE_S", 0.0)
    data, metadata = learnable(tmp_path / "data"), Away(3, 4)
    with pytest.raises(Unavailable, match="did not answer"):
        run(data, tmp_path, metadata)
    (run_id,) = metadata._runs
    assert run(data, tmp_path, metadata).version.run_id == run_id


class Branching(nn.Module):  # type: ignore[misc]
    """Does what no program can: something else for other rows."""

    def __init__(self, shape: Shape, *, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(shape.numbers, width), nn.Tanh(), nn.Linear(width, shape.outputs))

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        if numeric.abs().max() > 1_000:
            return torch.zeros(len(numeric), 1)
        out: torch.Tensor = self.body(numeric)
        return out


def own(
    data: TrainingSet, home: Path, metadata: InMemoryMetadata, network: Any, keep: Literal["program", "code"]
) -> TrainedModel:
    science = Science(network=network, keep=keep)
    found = train(
        data, science, SETTINGS, demand=HERE, metadata=metadata, home=home, clock=SystemClock(), progress=Silent(), code=home
    )  # fmt: skip
    assert isinstance(found, TrainedModel)
    return found


@pytest.mark.slow
def test_a_network_that_cannot_be_kept_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    data, metadata = learnable(tmp_path / "data", rows=1_000), InMemoryMetadata()
    line = r"torch\.export cannot follow line \d+ of .*test_trainer\.py, `if numeric\.abs\(\)\.max\(\) > 1_000:`"
    with pytest.raises(InvalidInput, match=rf"{line}.*keep=\"code\""):
        own(data, tmp_path, metadata, Branching, "program")
    assert metadata._runs == {}


@pytest.mark.slow
def test_a_network_of_another_width_than_the_tasks_is_refused(tmp_path: Path) -> None:
    data, metadata = learnable(tmp_path / "data", rows=1_000), InMemoryMetadata()
    with pytest.raises(InvalidInput, match="the network gives 2 numbers per row, and the task needs 1"):
        own(data, tmp_path, metadata, Wide, "program")
    assert metadata._runs == {}


class Wide(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.body = nn.Linear(shape.numbers, 2)

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(numeric)
        return out


@pytest.mark.slow
def test_a_network_of_the_users_own_answers_where_its_code_is_not(tmp_path: Path) -> None:
    data, metadata = learnable(tmp_path / "data", rows=1_000), InMemoryMetadata()
    table = data.table().slice(0, 5)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    makers: list[tuple[Any, Literal["program", "code"]]] = [
        (Straight, "program"), (partial(Branching, width=8), "code")
    ]  # fmt: skip
    for network, keep in makers:
        trained = own(data, tmp_path, metadata, network, keep)
        expected = trained.model.predict(columns)["probability"].tolist()
        asked = json.dumps(
            [trained.version.path, trained.version.digest, {f: columns[f] for f in trained.model.encoding.names}]
        )
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, asked], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={**environment().variables, "PYTHONPATH": str(Path(__file__).parents[2] / "mlplat" / "..")},
        )  # fmt: skip
        assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-6)


class Straight(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.body = nn.Linear(shape.numbers, shape.outputs)

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(numeric)
        return out


ELSEWHERE = """
import json, sys
sys.modules["tests"] = None  # the training code is not to be had
from pathlib import Path
from mlplat.model.artifact import load
path, digest, columns = json.loads(sys.argv[1])
print(json.dumps(load(Path(path), digest=digest, trusted=True).model.predict(columns)["probability"].tolist()))
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_loses_no_epoch(tmp_path: Path) -> None:
    """The first process is killed in its third epoch; the same call goes on, and the model is that of a calm run."""
    settings = replace(SETTINGS, epochs=4, recovery=Recovery(steps=1_000))
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        told = [driver.stdout.readline() for _ in range(2)]
        driver.kill()
    assert told == ["epoch 0\n", "epoch 1\n"]
    data, listening = learnable(tmp_path / "data"), Listening()
    trained = run(data, tmp_path, InMemoryMetadata(), settings=settings, progress=listening)
    assert [metrics.epoch for metrics in listening.epochs] == [2, 3]
    assert trained.model.digest == run(data, tmp_path / "calm", InMemoryMetadata(), settings=settings).model.digest


DRIVER = """
import sys, threading
from pathlib import Path
from dataclasses import replace
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.testing.learnable import learnable
from mlplat.train.progress import Silent
from mlplat.train.settings import Recovery
from tests.train.test_trainer import SETTINGS, run

class Telling(Silent):
    def epoch(self, metrics):
        print("epoch", metrics.epoch, flush=True)
        if metrics.epoch == 1:
            threading.Event().wait()

folder = Path(sys.argv[1])
settings = replace(SETTINGS, epochs=4, recovery=Recovery(steps=1_000))
run(learnable(folder / "data"), folder, InMemoryMetadata(), settings=settings, progress=Telling())
"""
