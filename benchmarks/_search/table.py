"""A search of a table in which every architecture was trained before: how near the best one comes, with which strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import optuna
import polars as pl
from optuna.storages import InMemoryStorage

from benchmarks._figures import Figures, PeerAbsent, Scene
from mlplat import space
from mlplat.metadata.port import Goal
from mlplat.train.search import Tpe
from mlplat.train.search.engine import Engine, Plan, same_params
from mlplat.train.search.here import run_here
from mlplat.train.search.running import Running
from mlplat.train.search.study import Study

EDGES, OPERATIONS = 6, 5
GOALS = (Goal(metric="accuracy", direction="max"),)
CELL = {f"edge{i}": space.choice(*range(OPERATIONS)) for i in range(EDGES)}


def regrets(scene: Scene) -> Mapping[str, Figures]:
    """Of NAS-Bench-201 (Dong and Yang, ICLR 2020), CIFAR-10: the best accuracy less that of the best cell found, in points."""
    file = scene.files.get("table")
    if file is None and not scene.quick:
        raise PeerAbsent("give the table of NAS-Bench-201 with --table FILE")
    table = (
        _read(file) if file else {f"{i:06}": float(i % 97) for i in range(1_000_000) if set(f"{i:06}") <= set("01234")}
    )
    best, evaluations = max(table.values()), scene.size(150, 15)

    def of(architecture: str) -> float:
        return table[architecture]

    seeds = range(scene.size(20, 2))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ours = [best - _ours(of, evaluations, seed, scene.folder) for seed in seeds]
    tpe = [best - _optuna(of, evaluations, optuna.samplers.TPESampler(seed=seed)) for seed in seeds]
    random = [best - _optuna(of, evaluations, optuna.samplers.RandomSampler(seed=seed)) for seed in seeds]
    error = stdev(tpe) / len(tpe) ** 0.5
    means = [
        f"{name} {mean(found):.4f}" for name, found in (("ours", ours), ("Optuna's default", tpe), ("random", random))
    ]
    note = f"mean regret in points: {', '.join(means)}; standard error of Optuna's {error:.4f}"
    return {
        "nas_tpe": Figures(ours=mean(ours), reference=mean(tpe) + error, note=note),
        "nas_random": Figures(ours=mean(ours), reference=mean(random)),
    }


def _read(file: Path) -> dict[str, float]:
    """Mean accuracy over the seeds that there are."""
    table = pl.read_parquet(file)
    return dict(table.select("arch", accuracy=pl.mean_horizontal("seed0", "seed1", "seed2")).iter_rows())


def _ours(of: Callable[[str], float], evaluations: int, seed: int, folder: Path) -> float:
    """The default strategy, as `platform.search` has it of a function."""
    plan = Plan(space=CELL, goals=GOALS, trials=evaluations, strategy=Tpe(), seed=seed, digest=same_params)
    study = Study(InMemoryStorage(), "cells", GOALS, {"goals": "accuracy max"}, lambda call: call())

    def objective(made: Mapping[str, int], trial: Running) -> float:
        return of("".join(str(made[f"edge{i}"]) for i in range(EDGES)))

    run_here(Engine(plan, study), objective, folder, lambda: None)
    return max(trial.values[0] for trial in study.trials.values())


def _optuna(of: Callable[[str], float], evaluations: int, sampler: Any) -> float:
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        return of("".join(str(trial.suggest_categorical(f"edge{i}", list(range(OPERATIONS)))) for i in range(EDGES)))

    study.optimize(objective, n_trials=evaluations)
    return float(study.best_value)
