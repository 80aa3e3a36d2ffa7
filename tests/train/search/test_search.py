"""Searches through the platform, in this process: trainings and functions, what is kept, recorded and refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlplat
from mlplat import space
from mlplat.errors import Conflict, InvalidInput, NotFound
from mlplat.features.training_set import TrainingSet
from mlplat.metadata.port import Goal
from mlplat.model import mlp
from mlplat.testing.learnable import stored
from mlplat.train import TrainSettings
from mlplat.train.search import Grid, Random, Rungs, Running
from mlplat.train.search.journal import open_journal

pytestmark = pytest.mark.slow  # MLflow's database is opened for each

SETTINGS = TrainSettings(batch_size=128, epochs=3, learning_rate=1e-2, holdout_s=48 * 86_400)
NETWORKS = {
    "network": space.made(mlp, hidden=space.repeat(space.choice(4, 16), space.integer(1, 2))),
    "learning_rate": space.number(1e-3, 1e-1, log=True),
}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[mlplat.Platform]:
    with mlplat.connect(tmp_path / "home") as platform:
        yield platform


@pytest.fixture
def data(platform: mlplat.Platform) -> TrainingSet:
    return stored(platform.home, rows=600, numbers=3)


def far(made: Any, trial: Running) -> float:
    return float(abs(made["x"] - 3))


def test_a_search_of_trainings_keeps_the_best_as_versions_that_nothing_serves_yet(
    platform: mlplat.Platform, data: TrainingSet
) -> None:
    found = platform.search(NETWORKS, data, trials=6, compute="cpu:0", settings=SETTINGS, rungs=Rungs(), keep=2)
    assert len(found.trials) == 6
    assert {trial.state for trial in found.trials} == {"done", "stopped"}
    best = found.best
    assert best.values[0] == min(trial.values[0] for trial in found.trials if trial.state == "done")
    assert found.version.version == 1
    assert found.model.metrics["log_loss"] == best.values[0]
    assert platform.metadata.alias("late", "candidate") is None
    done = sorted((trial for trial in found.trials if trial.state == "done"), key=lambda trial: trial.values)
    folders = {path.name for path in (platform.home / "searches" / "late").iterdir() if path.name.isdigit()}
    assert folders == {str(trial.number) for trial in done[:2]}
    tags = platform.metadata.run(found.version.run_id)["tags"]
    assert (tags["search"], tags["search_trial"]) == ("late", str(best.number))
    parent = platform.metadata.run(tags["mlflow.parentRunId"])
    assert parent["metrics"]["best_log_loss"] == pytest.approx(best.values[0])
    assert platform.metadata.texts(parent["run_id"])["trials"].count("\n") == 7
    assert found.table()["trial"][0] == best.number
    assert platform.leaderboard_of("late").equals(found.table())
    again = platform.search(NETWORKS, data, trials=6, compute="cpu:0", settings=SETTINGS, rungs=Rungs(), keep=2)
    assert again.trials == found.trials
    assert [one.version for one in again.models] == [one.version for one in found.models]
    assert platform.promote(found).version == found.version


def test_latency_is_a_goal_as_the_loss_is(platform: mlplat.Platform, data: TrainingSet) -> None:
    goals = [Goal(metric="log_loss", direction="min"), Goal(metric="latency_ms", direction="min")]
    networks = space.made(mlp, hidden=space.choice(narrow=(4,), wide=(2_000, 2_000), name="hidden"))
    once = TrainSettings(batch_size=600, epochs=1, holdout_s=48 * 86_400)
    found = platform.search(
        networks, data, trials=2, compute="cpu:0", settings=once, goal=goals, strategy=Grid(), keep=1
    )
    took = {trial.params["hidden"]: trial.values[1] for trial in found.trials}
    assert 0 < 2 * took["narrow"] < took["wide"]


def test_a_searched_model_is_what_training_it_alone_makes(platform: mlplat.Platform, data: TrainingSet) -> None:
    found = platform.search(NETWORKS, data, trials=2, compute="cpu:0", settings=SETTINGS, strategy=Random())
    made = platform.reproduce(found.version)
    assert made.same


def test_a_search_over_estimators_and_networks(platform: mlplat.Platform, data: TrainingSet) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    zoo = {
        "network": space.choice(
            trees=space.made(
                HistGradientBoostingClassifier,
                max_iter=space.integer(5, 20),
                categorical_features="from_dtype",
                random_state=0,
            ),
            mlp=space.made(mlp, hidden=[space.integer(4, 16)]),
        )
    }
    first = ({"network": "trees"}, {"network": "mlp"})
    found = platform.search(zoo, data, trials=3, compute="cpu:0", settings=SETTINGS, first=first)
    assert [trial.state for trial in found.trials] == ["done"] * 3
    rows = data.table().slice(0, 5)
    assert np.isfinite(next(iter(found.model.model.predict(rows).values()))).all()


def test_a_function_of_ones_own_is_searched_and_found_again_by_its_name(platform: mlplat.Platform) -> None:
    xs = {"x": space.integer(0, 9)}
    found = platform.search(xs, far, name="near-3", trials=12, compute="cpu:0", strategy=Random(), seed=1)
    assert found.best.params == {"x": 3}
    assert platform.trials("near-3") == found.trials
    with pytest.raises(NotFound, match="made no model"):
        _ = found.model
    with pytest.raises(NotFound, match="Did you mean 'near-3'"):
        platform.trials("near-4")


def test_a_search_that_is_just_being_begun_is_not_listed_yet(platform: mlplat.Platform) -> None:
    assert platform.searches().height == 0
    open_journal(platform.home / "searches" / "new" / "journal.log")
    platform.search({"x": space.integer(0, 9)}, far, name="xs", trials=2, compute="cpu:0")
    assert platform.searches()["search"].to_list() == ["xs"]


def test_a_search_that_was_begun_otherwise_says_how(platform: mlplat.Platform) -> None:
    platform.search({"x": space.integer(0, 9)}, far, name="xs", trials=2, compute="cpu:0")
    with pytest.raises(
        InvalidInput, match=r"begun otherwise: space\.x was whole, from 0 to 9, and is whole, from 0 to 8"
    ):
        platform.search({"x": space.integer(0, 8)}, far, name="xs", trials=2, compute="cpu:0")
    with pytest.raises(
        InvalidInput, match="begun otherwise: what is not chosen in its space, or the code in it, has changed"
    ):
        platform.search({"x": space.integer(0, 9), "y": 1}, far, name="xs", trials=2, compute="cpu:0")
    with pytest.raises(InvalidInput, match="begun otherwise: goals was loss min, and is loss max"):
        platform.search(
            {"x": space.integer(0, 9)},
            far,
            name="xs",
            trials=2,
            compute="cpu:0",
            goal=Goal(metric="loss", direction="max"),
        )
    with pytest.raises(InvalidInput, match="begun otherwise: objective was far"):
        platform.search({"x": space.integer(0, 9)}, lambda made, trial: 0.0, name="xs", trials=2, compute="cpu:0")


@pytest.mark.parametrize(
    ("space_of", "options", "said"),
    [
        ({"x": 1}, {}, "there is nothing to choose in it"),
        ({"x": space.integer(0, 1)}, {"name": "a b"}, "give letters, digits"),
        ({"x": space.integer(0, 1)}, {"name": None}, "a search of your own function needs one"),
        ({"x": space.integer(0, 1)}, {"executor": "fast"}, "executor='fast' must be"),
        ({"x": space.integer(0, 1)}, {"goal": ()}, "give a Goal, or several"),
        ({"x": space.integer(0, 1)}, {"start_from": ["nothing"]}, "There is no search 'nothing'"),
    ],
)
def test_what_is_no_search_is_refused(platform: mlplat.Platform, space_of: Any, options: Any, said: str) -> None:
    with pytest.raises((InvalidInput, NotFound), match=said):
        platform.search(space_of, far, **{"name": "xs", "compute": "cpu:0", "trials": 1, **options})


@pytest.mark.parametrize(
    ("space_of", "said"),
    [
        ({"speed": space.number(0, 1)}, "'speed': a training has network, loss, optimizer, and the settings"),
        ({"task": space.choice("binary")}, "'task' must be the same for all trials"),
    ],
)
def test_a_space_that_no_training_takes_is_refused_before_anything_is_recorded(
    platform: mlplat.Platform, data: TrainingSet, space_of: Any, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        platform.search(space_of, data, trials=1, compute="cpu:0", settings=SETTINGS)
    assert platform.trials("late") == ()


def test_an_estimator_has_no_latency_to_search_by(platform: mlplat.Platform, data: TrainingSet) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    of_trees = {"network": space.made(HistGradientBoostingClassifier, max_iter=space.integer(5, 20))}
    with pytest.raises(InvalidInput, match="latency_ms is of networks"):
        platform.search(
            of_trees,
            data,
            trials=1,
            compute="cpu:0",
            goal=Goal(metric="latency_ms", direction="min"),
            settings=SETTINGS,
        )
    assert platform.trials("late") == ()


def test_two_processes_do_not_run_one_search(platform: mlplat.Platform, tmp_path: Path) -> None:
    script = f"""
import sys
import mlplat
from mlplat import space

def wait(made, trial):
    print("runs", flush=True)
    sys.stdin.read()
    return 1.0

with mlplat.connect({str(platform.home)!r}) as platform:
    platform.search({{"x": space.integer(0, 9)}}, wait, name="xs", compute="cpu:0", trials=1)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "runs\n"
        with pytest.raises(Conflict):
            platform.search({"x": space.integer(0, 9)}, far, name="xs", compute="cpu:0", trials=1)
        assert platform.trials("xs")[0].state == "running"
        other.communicate()
    assert platform.trials("xs")[0].state == "done"
