"""What a trial costs that does nothing: by Ray Tune as we use it and as it is, on processes that stay, and at the least."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import ray
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.tune.search.optuna import OptunaSearch

import mlplat
from benchmarks._figures import Figures, Scene
from mlplat import space
from mlplat._ray.session import Session
from mlplat.config import environment
from mlplat.train.search import Random
from mlplat.train.search.journal import open_journal

SPACE = {"x": space.number(0, 1)}
WORKERS, FIRST = 2, 10
"""The first trials are those that start processes."""


def overheads(scene: Scene) -> Mapping[str, Figures]:
    """Seconds a trial, from the end of the tenth to the end of the last: of the dates in the journals, which all of them
    write."""
    few, many = scene.size(60, 14), scene.size(600, 40)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, list[float]] = {name: [] for name in ("tune", "warm", "plain", "floor")}
    with (
        Session.start(None, home=scene.folder / "ray", env=environment(), cpus=WORKERS),
        mlplat.connect(scene.folder / "home") as platform,
    ):
        shared = platform.session.shared
        for round_ in range(scene.size(3, 1)):
            for name in found if round_ % 2 else reversed(found):
                path = scene.folder / f"{name}{round_}"
                if name == "plain":
                    _plain(path, few)
                elif name == "floor":
                    _floor(path, many)
                else:
                    label = f"{name}{round_}"
                    trials = few if name == "tune" else many
                    platform.search(
                        SPACE,
                        nothing,
                        name=label,
                        trials=trials,
                        executor=name,  # type: ignore[arg-type]
                        at_once=WORKERS,
                        strategy=Random(),
                    )
                    path = platform.home / "searches" / label / "journal.log"
                found[name].append(_each_s(path))
    each = {name: median(seconds) for name, seconds in found.items()}
    note = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in each.items()) + f"; shared cluster: {shared}"
    return {
        "trial_overhead_tune": Figures(ours=each["tune"], reference=each["plain"], note=note),
        "trial_overhead_warm": Figures(ours=each["warm"], reference=each["plain"]),
        "trial_overhead_floor": Figures(ours=each["warm"], reference=each["floor"]),
    }


def nothing(made: Any, trial: Any) -> float:
    return 0.0


def _plain(path: Path, trials: int) -> None:
    search = OptunaSearch(
        _suggest,
        metric="loss",
        mode="min",
        sampler=RandomSampler(seed=0),
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name="plain",
    )
    tune.Tuner(
        _report_nothing,
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=trials, max_concurrent_trials=WORKERS, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(path.parent / f"{path.name}.tune"), verbose=0),
    ).fit()


def _suggest(trial: optuna.Trial) -> None:
    trial.suggest_float("x", 0, 1)


def _report_nothing(config: Mapping[str, float]) -> None:
    tune.report({"loss": 0.0})


@ray.remote(num_cpus=1)
class _Bare:
    def evaluate(self, params: Mapping[str, float]) -> float:
        return 0.0


def _floor(path: Path, trials: int) -> None:
    """Two actors, and Optuna's ask and tell."""
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))), study_name="bare", sampler=RandomSampler(seed=0)
    )
    actors = [_Bare.remote() for _ in range(WORKERS)]
    running: dict[Any, tuple[Any, optuna.Trial]] = {}
    begun = 0

    def begin(actor: Any) -> None:
        nonlocal begun
        trial = study.ask()
        running[actor.evaluate.remote({"x": trial.suggest_float("x", 0, 1)})] = actor, trial
        begun += 1

    for actor in actors:
        begin(actor)
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        actor, trial = running.pop(done)
        study.tell(trial, ray.get(done))
        if begun < trials:
            begin(actor)
    for actor in actors:
        ray.kill(actor)


def _each_s(path: Path) -> float:
    storage = open_journal(path)
    (study,) = storage.get_all_studies()
    ends = sorted(
        trial.datetime_complete for trial in storage.get_all_trials(study._study_id) if trial.datetime_complete
    )
    return (ends[-1] - ends[FIRST - 1]).total_seconds() / (len(ends) - FIRST)
