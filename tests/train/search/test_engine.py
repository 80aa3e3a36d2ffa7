"""The search as a machine: what it tries, what it gives up, and that a crash anywhere changes nothing of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import JournalStorage

from mlplat.errors import InvalidInput
from mlplat.metadata.port import Goal
from mlplat.model import space
from mlplat.train.search.engine import Engine, Plan, same_params
from mlplat.train.search.rungs import Rungs
from mlplat.train.search.running import GiveWay, Running
from mlplat.train.search.strategy import Evolution, Grid, Random, Tpe
from tests.train.search.support import LOSS, PLAN, Dying, Killed, opened, searched, told

STRATEGIES = [Tpe(startup=5), Random(), Grid(per_range=2), Evolution(population=8, sample=3)]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_killed_at_any_write_the_search_goes_on_as_if_nothing_had_been(
    tmp_path: Path, strategy: Any, after: bool
) -> None:
    plan = replace(PLAN, strategy=strategy, rungs=Rungs(first=1, factor=2), trials=14)
    undisturbed = told(searched(tmp_path / "whole", plan))
    assert len(undisturbed) == 14
    assert {trial.state for trial in undisturbed} == {"done", "stopped"}
    path, kills, at = tmp_path / "killed", 0, 1
    while True:  # each process lives for a few writes more than the one before
        try:
            found = told(searched(path, plan, storage=JournalStorage(Dying(path, at, after=after))))
            break
        except Killed:
            kills, at = kills + 1, at % 7 + 2
    assert kills > 8
    assert found == undisturbed


def test_a_trial_that_crashed_is_begun_again_as_declared_and_then_has_the_traceback(tmp_path: Path) -> None:
    crashes: dict[int, int] = {}

    def fragile(made: Any, trial: Running) -> float:
        crashes[trial.number] = crashes.get(trial.number, 0) + 1
        if trial.number == 1 or (trial.number == 2 and crashes[2] < 3):
            raise ZeroDivisionError("by the user")
        return float(trial.number)

    found = searched(tmp_path / "j", replace(PLAN, trials=4, retries=2), fragile)
    assert [trial.state for trial in found] == ["done", "failed", "done", "done"]
    assert [trial.attempts for trial in found] == [1, 3, 3, 1]
    assert "in fragile\n" in found[1].error
    assert found[1].error.endswith("ZeroDivisionError: by the user")
    assert "running.py" not in found[1].error  # the platform's own frames


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "loss is nan"),
        (math.inf, "loss is inf"),
        ({"auc": 1.0}, "it gave no loss; it gave auc"),
        ("good", "loss='good', which is no number"),
        (None, "loss=None, which is no number"),
    ],
)
def test_what_is_no_number_fails_the_trial_and_not_the_search(tmp_path: Path, value: Any, said: str) -> None:
    def odd(made: Any, trial: Running) -> Any:
        return value if trial.number == 0 else 1.0

    first, second = searched(tmp_path / "j", replace(PLAN, trials=2, retries=3), odd)
    assert (first.state, first.attempts, second.state) == ("failed", 1, "done")
    assert said in first.error


def test_what_gives_way_goes_on_in_its_folder_and_that_is_no_attempt(tmp_path: Path) -> None:
    def slow(made: Any, trial: Running) -> float:
        counter = trial.folder / "steps"
        done = int(counter.read_text()) if counter.exists() else 0
        counter.write_text(str(done + 1))
        if done < 3:
            raise GiveWay
        return float(done)

    found = searched(tmp_path / "j", replace(PLAN, trials=2), slow)
    assert [(trial.values, trial.attempts) for trial in found] == [((3.0,), 1), ((3.0,), 1)]


def test_rungs_give_up_what_is_behind_and_its_seeds_depend_on_the_number_alone(tmp_path: Path) -> None:
    seeds = {}

    def trial_of(made: Any, trial: Running) -> float:
        seeds[trial.number] = trial.seed
        for step in range(1, 5):
            trial.report(step, float(trial.number))
        return float(trial.number)

    found = searched(tmp_path / "j", replace(PLAN, trials=6, rungs=Rungs(first=1, factor=2)), trial_of)
    assert [trial.state for trial in found] == ["done"] + ["stopped"] * 5
    assert [len(trial.steps) for trial in found] == [4, 1, 1, 1, 1, 1]
    again = dict(seeds)
    searched(tmp_path / "k", replace(PLAN, trials=6, strategy=Random()), trial_of)
    assert seeds == again


def test_first_points_come_first_and_what_they_leave_open_is_chosen(tmp_path: Path) -> None:
    plan = replace(PLAN, trials=3, first=({"rate": 0.5, "act": "gelu"}, {"rate": 0.25}))
    found = searched(tmp_path / "j", plan)
    assert [trial.params["rate"] for trial in found][:2] == [0.5, 0.25]
    assert found[0].params["act"] == "gelu"
    with pytest.raises(InvalidInput, match=r"first: rate=7 is not from 0\.0001 to 1"):
        replace(plan, first=({"rate": 7},))
    with pytest.raises(InvalidInput, match="first: no place is called 'speed'"):
        replace(plan, first=({"speed": 7},))


def test_what_was_tried_is_not_tried_again_and_a_space_that_is_empty_ends_the_search(tmp_path: Path) -> None:
    plan = Plan(
        space={"a": space.choice(1, 2, 3), "b": space.choice("x", "y")},
        goals=LOSS,
        trials=50,
        strategy=Tpe(startup=3),
        digest=same_params,
    )
    found = searched(tmp_path / "j", plan, lambda made, trial: made["a"])
    assert len(found) == len({trial.digest for trial in found}) == 6
    assert searched(tmp_path / "j", plan, lambda made, trial: made["a"]) == found


@pytest.mark.slow
def test_a_candidate_over_a_limit_never_becomes_a_trial(tmp_path: Path) -> None:
    def check(made: Mapping[str, Any]) -> str | None:
        return f"rate {made['rate']:.3g}, more than 0.01" if made["rate"] > 0.01 else None

    found = searched(tmp_path / "j", replace(PLAN, check=check))
    assert len(found) == 20
    assert all(trial.params["rate"] <= 0.01 for trial in found)
    with pytest.raises(InvalidInput, match="one was over a limit: always"):
        searched(tmp_path / "k", replace(PLAN, check=lambda made: "always"))


def test_a_target_that_is_reached_ends_the_search(tmp_path: Path) -> None:
    plan = replace(PLAN, goals=(Goal(metric="loss", direction="min", target=3.0),), trials=9)
    found = searched(tmp_path / "j", plan, lambda made, trial: 5.0 - trial.number)
    assert [trial.values for trial in found] == [(5.0,), (4.0,), (3.0,)]


@pytest.mark.slow
def test_more_trials_go_on_with_a_search_that_had_ended(tmp_path: Path) -> None:
    few = searched(tmp_path / "j", replace(PLAN, trials=7))
    more = searched(tmp_path / "j", replace(PLAN, trials=12))
    assert more[:7] == few
    assert told(more) == told(searched(tmp_path / "whole", replace(PLAN, trials=12)))


def test_another_search_tells_where_to_look(tmp_path: Path) -> None:
    plan = replace(PLAN, trials=1, seed=11)
    study = opened(tmp_path / "j", plan)
    for i in range(30):
        params = {"rate": 0.01 * 1.02**i, "widths.times": 2, "widths[0]": 64, "widths[1]": 64, "act": "relu"}
        study.remember(params, plan.domains, [i / 1e3])
        far = {**params, "rate": 0.9 / 1.01**i, "act": "tanh"}
        study.remember(far, plan.domains, [5.0 + i])
    task = Engine(plan, study).next()
    assert task is not None
    assert task.params["rate"] < 0.1
    assert task.params["act"] == "relu"


def test_several_goals_are_all_recorded_and_rungs_are_refused(tmp_path: Path) -> None:
    goals = (*LOSS, Goal(metric="size", direction="min"))
    plan = replace(PLAN, goals=goals, trials=8)

    def both(made: Any, trial: Running) -> Mapping[str, float]:
        return {"loss": made["rate"], "size": float(sum(made["widths"])), "more": 1.0}

    found = searched(tmp_path / "j", plan, both)
    assert all(len(trial.values) == 2 and trial.metrics == {"more": 1.0} for trial in found)
    with pytest.raises(InvalidInput, match="of several goals none says"):
        replace(plan, rungs=Rungs())


def test_threads_that_ask_at_once_get_trials_of_their_own(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    engine = Engine(replace(PLAN, trials=16, strategy=Random()), opened(tmp_path / "j"))

    def one(_: int) -> int:
        task = engine.next()
        assert task is not None
        engine.done(task.number, {"loss": 1.0})
        return task.number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(one, range(16))) == list(range(16))
    assert engine.over
    assert engine.left == 0


def test_what_comes_late_of_a_trial_that_has_ended_changes_nothing(tmp_path: Path) -> None:
    engine = Engine(replace(PLAN, trials=2), opened(tmp_path / "j"))
    task = engine.next()
    assert task is not None
    engine.done(task.number, {"loss": 1.0})
    engine.failed(task.number, "late")
    engine.done(task.number, {"loss": 2.0})
    assert not engine.told(task.number, 1, 0.0)
    engine.yielded(task.number)
    assert engine.study.trials[task.number].values == (1.0,)
    assert engine.next() != task


def test_no_trials_are_no_search() -> None:
    with pytest.raises(InvalidInput, match="trials=0 must be"):
        replace(PLAN, trials=0)
