"""A small search, and a process that dies where a test says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mlplat.metadata.port import Goal
from mlplat.model import space
from mlplat.train.search.engine import Engine, Plan
from mlplat.train.search.here import run_here
from mlplat.train.search.journal import Lock, open_journal
from mlplat.train.search.running import Running
from mlplat.train.search.strategy import Tpe
from mlplat.train.search.study import Study
from mlplat.train.search.trial import Trial

LOSS = (Goal(metric="loss", direction="min"),)
SPACE = {
    "rate": space.number(1e-4, 1.0, log=True),
    "widths": space.repeat(space.integer(8, 256, log=True), space.integer(1, 3)),
    "act": space.choice("relu", "tanh", "gelu"),
}
PLAN = Plan(space=SPACE, goals=LOSS, trials=20, strategy=Tpe(startup=5), seed=3)


class Killed(BaseException):
    """The process is gone."""


class Dying(JournalFileBackend):
    """Dies at write `at` of this process, before it is made or right after."""

    def __init__(self, path: Path, at: int, *, after: bool) -> None:
        super().__init__(str(path), lock_obj=Lock(path))  # type: ignore[arg-type]
        self._left, self._after = at, after

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        super().append_logs(logs)
        if self._left == 0:
            raise Killed


def objective(made: Any, trial: Running) -> float:
    """Smooth, with a little of everything, and the same for the same trial."""
    widths = made["widths"]
    value = abs(math.log10(made["rate"]) + 2) + abs(len(widths) - 2) + sum(abs(w - 64) for w in widths) / 256
    value += {"relu": 0.0, "tanh": 0.3, "gelu": 0.1}[made["act"]] + trial.seed % 97 / 1e4
    for step in range(1, 4):
        trial.report(step, value + 1 / step)
    return value


def opened(path: Path, plan: Plan = PLAN, storage: JournalStorage | None = None) -> Study:
    about = {"goals": ", ".join(f"{goal.metric} {goal.direction}" for goal in plan.goals)}
    return Study(storage or open_journal(path), "s", plan.goals, about, lambda call: call())


def searched(
    path: Path,
    plan: Plan = PLAN,
    call: Callable[..., Any] = objective,
    storage: JournalStorage | None = None,
) -> list[Trial]:
    study = opened(path, plan, storage)
    run_here(Engine(plan, study), call, path.parent / "trials", lambda: None)
    return list(study.trials.values())


def told(trials: list[Trial]) -> list[Trial]:
    """Without what a clock says."""
    return [replace(trial, seconds=0.0) for trial in trials]
