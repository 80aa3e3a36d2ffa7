"""Searches on a real cluster: by Ray Tune and on processes that stay, in the queue, and through processes that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

import mlplat
from mlplat import space
from mlplat.jobs import Rules
from mlplat.model import mlp
from mlplat.testing.learnable import stored
from mlplat.train import TrainSettings
from mlplat.train.search import Random, Rungs, Running

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

XS = {"x": space.number(0, 1)}
SETTINGS = TrainSettings(batch_size=128, epochs=4, patience=4, learning_rate=1e-2, holdout_s=48 * 86_400)
PATIENCE_S = 60.0


@pytest.fixture
def platform(ray_cluster: Any, tmp_path: Path) -> Iterator[mlplat.Platform]:
    with mlplat.connect(tmp_path / "home") as platform:
        platform.jobs.set_rules(Rules(grace_s=5.0))
        yield platform
        _until(lambda: platform.jobs.list(ended=0).height == 0)


def told(made: Any, trial: Running) -> float:
    for step in range(1, 4):
        trial.report(step, made["x"] + 1 / step)
    return float(made["x"])


@pytest.fixture
def tuners(monkeypatch: pytest.MonkeyPatch) -> list[tune.Tuner]:
    """Those that ran."""
    found: list[tune.Tuner] = []
    fit = tune.Tuner.fit

    def noted(self: tune.Tuner) -> Any:
        found.append(self)
        return fit(self)

    monkeypatch.setattr(tune.Tuner, "fit", noted)
    return found


def test_trials_that_take_their_time_are_ray_tunes(platform: mlplat.Platform, tuners: list[tune.Tuner]) -> None:
    def slow(made: Any, trial: Running) -> float:
        threading.Event().wait(1.5)
        return told(made, trial)

    heard = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)
    found = platform.search(XS, slow, name="slow", trials=6, at_once=2, strategy=Random())
    assert len(tuners) == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)) == heard
    assert [trial.state for trial in found.trials] == ["done"] * 6
    assert {len(trial.steps) for trial in found.trials} == {3}
    assert {trial.attempts for trial in found.trials} == {1}


def test_short_trials_run_on_processes_that_stay(platform: mlplat.Platform, tuners: list[tune.Tuner]) -> None:
    def where(made: Any, trial: Running) -> dict[str, float]:
        return {"loss": told(made, trial), "process": os.getpid()}

    found = platform.search(XS, where, name="short", trials=30, at_once=2, strategy=Random())
    assert tuners == []
    assert [trial.state for trial in found.trials] == ["done"] * 30
    assert len({trial.metrics["process"] for trial in found.trials}) <= 4


@pytest.mark.parametrize("executor", ["tune", "warm"])
def test_both_ways_record_the_same(platform: mlplat.Platform, executor: Any) -> None:
    def fragile(made: Any, trial: Running) -> float:
        if trial.number == 2:
            raise ZeroDivisionError("by the user")
        return told(made, trial)

    rungs = Rungs(first=1, factor=2)
    options = {"trials": 8, "strategy": Random(), "rungs": rungs, "retries": 1, "at_once": 1}
    found = platform.search(XS, fragile, name=executor, executor=executor, **options)
    here = platform.search(XS, fragile, name="here", compute="cpu:0", **options)
    assert [(t.state, t.params, t.steps, t.values, t.attempts, t.error.splitlines()[-1:]) for t in found.trials] == [
        (t.state, t.params, t.steps, t.values, t.attempts, t.error.splitlines()[-1:]) for t in here.trials
    ]
    assert {t.state for t in found.trials} == {"done", "stopped", "failed"}


@pytest.mark.parametrize("executor", ["tune", "warm"])
def test_a_trial_whose_process_is_killed_is_begun_again(platform: mlplat.Platform, executor: Any) -> None:
    def killed(made: Any, trial: Running) -> float:
        mark = trial.folder / "killed"
        if trial.number == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return told(made, trial)

    found = platform.search(XS, killed, name=executor, executor=executor, trials=4, at_once=2, strategy=Random())
    assert [trial.state for trial in found.trials] == ["done"] * 4
    assert [trial.attempts for trial in found.trials] == [1, 2, 1, 1]


@pytest.mark.parametrize("executor", ["tune", pytest.param("warm", marks=pytest.mark.soak)])
def test_trials_give_way_to_production_and_go_on_where_they_were(platform: mlplat.Platform, executor: Any) -> None:
    """Each step is done once."""

    def stepping(made: Any, trial: Running) -> float:
        file = trial.folder / "steps"
        for step in range(len(file.read_text()) if file.exists() else 0, 40):
            threading.Event().wait(0.05)
            with file.open("a") as out:
                out.write(".")
            trial.report(step, 1.0)
        return float(len(file.read_text()))

    slots = {"FPGA": 1, "CPU": 0.5}
    result: list[Any] = []

    def search() -> None:
        result.append(
            platform.search(XS, stepping, name=executor, executor=executor, trials=2, compute=slots, strategy=Random())
        )

    thread = threading.Thread(target=search)
    thread.start()
    _until(lambda: len(list((platform.home / "searches" / executor).glob("[01]/steps"))) == 2)
    for _ in range(2):
        with platform.jobs.lease({"workers": 2, **slots}, priority="production"):
            pass
        _until(lambda: platform.jobs.list(ended=0).filter(state="running").height == 2 or not thread.is_alive())
    thread.join()
    (found,) = result
    assert [trial.values for trial in found.trials] == [(40.0,), (40.0,)]
    assert [trial.attempts for trial in found.trials] == [1, 1]
    assert all(sorted(trial.steps) == list(range(40)) for trial in found.trials)


def test_the_driver_is_killed_and_nothing_is_lost_or_done_twice(platform: mlplat.Platform, tmp_path: Path) -> None:
    home, done = tmp_path / "other", tmp_path / "done"
    script = f"""
import sys, threading
from pathlib import Path
import mlplat
from mlplat import space
from mlplat.train.search import Tpe

def slow(made, trial):
    threading.Event().wait(0.1)
    with Path({str(done)!r}).open("a") as file:
        file.write(f"{{trial.number}} {{made['x']}}\\n")
    return made["x"]

with mlplat.connect({str(home)!r}) as platform:
    platform.search({{"x": space.number(0, 1)}}, slow, name="s", trials=20, at_once=1, executor=EXECUTOR,
    strategy=Tpe(startup=4))
"""
    for executor in ("warm", "tune"):
        code = script.replace("EXECUTOR", repr(executor))
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        _until(lambda: done.exists() and len(done.read_text().splitlines()) >= 6)
        child.kill()
        child.wait()
        subprocess.run([sys.executable, "-c", code], check=True, timeout=300, stderr=subprocess.DEVNULL)
        with mlplat.connect(home) as other:
            trials = other.trials("s")
        assert [trial.state for trial in trials] == ["done"] * 20
        lines = done.read_text().splitlines()
        assert len(lines) <= 21  # the one that was under way was done once more
        assert {line.split()[0] for line in lines} == {str(i) for i in range(20)}
        shutil.rmtree(home)
        done.unlink()


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_trainings_on_two_workers_each_are_trials_too(platform: mlplat.Platform) -> None:
    data = stored(platform.home, rows=600, numbers=3)
    networks = {"network": space.made(mlp, hidden=[space.choice(4, 8)])}
    found = platform.search(networks, data, trials=2, compute="cpu:2", settings=SETTINGS, at_once=1, strategy=Random())
    assert [trial.state for trial in found.trials] == ["done"] * 2
    assert {len(trial.steps) for trial in found.trials} == {4}


def _until(true: Callable[[], bool]) -> None:
    patience = threading.Event()
    for _ in range(round(PATIENCE_S / 0.05)):
        if true():
            return
        patience.wait(0.05)
    pytest.fail(f"not so after {PATIENCE_S:g} s")
