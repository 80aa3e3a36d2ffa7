"""A search from the call to its end: the record is opened, trials run, the best of trainings become versions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import polars as pl
from optuna.storages import BaseStorage

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, NotFound
from mlplat.metadata.port import Goal, ModelVersion
from mlplat.model.canonical import canonical
from mlplat.model.space import Choice, Domain, Made, Repeat
from mlplat.train.progress import Notes
from mlplat.train.recording import patiently
from mlplat.train.runs import claimed
from mlplat.train.science import spelled as spelled_call
from mlplat.train.search.board import Board
from mlplat.train.search.engine import Engine, Plan
from mlplat.train.search.ranking import front, ranked, table
from mlplat.train.search.running import Objective
from mlplat.train.search.study import Study
from mlplat.train.search.trial import Trial
from mlplat.train.trainer import TrainedModel

RunTrials = Callable[[Engine, Objective, Path, Callable[[], None]], None]
"""Runs trials until the search is over, or it is to stop."""

PLACE = "space."
"""Before the names of places, in what is kept of a search."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search and what it found. `models` are the best trainings, best first, each a registered version that nothing serves yet;
    of an objective of your own there are none."""

    name: str
    goals: tuple[Goal, ...]
    trials: tuple[Trial, ...]
    models: tuple[TrainedModel, ...] = ()

    @property
    def best(self) -> Trial:
        """`NotFound` if no trial ended well."""
        found = ranked(self.trials, self.goals)
        if not found:
            why = next((f": trial {t.number}: {t.error.splitlines()[-1]}" for t in self.trials if t.error), "")
            raise NotFound(f"search {self.name!r}: none of {len(self.trials)} trials ended well{why}")
        return found[0]

    @property
    def front(self) -> list[Trial]:
        """Of several goals, the trials that no other beats in all of them."""
        return front(self.trials, self.goals)

    @property
    def model(self) -> TrainedModel:
        """The best training. `NotFound` if there is none."""
        if not self.models:
            raise NotFound(f"search {self.name!r} made no model")
        return self.models[0]

    @property
    def version(self) -> ModelVersion:
        """That of `model`, so that the search can be promoted."""
        return self.model.version

    def table(self) -> pl.DataFrame:
        """The leaderboard: a row for each trial, the best first."""
        return table(self.trials, self.goals)


def run_search(
    name: str,
    plan: Plan,
    objective: Objective,
    *,
    storage: AbstractContextManager[BaseStorage],
    folder: Path,
    clock: Clock,
    board: Board,
    run: RunTrials,
    warm: Sequence[tuple[Sequence[Goal], Sequence[Trial]]] = (),
    about: Mapping[str, Any],
    study_name: str,
) -> tuple[Trial, ...]:
    """All trials of a search, those of an earlier call with the same name too. `warm` are goals and trials of others, for
    samplers to know. Raises `Conflict` while another process has it, `InvalidInput` if it was begun otherwise."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with claimed(folder.parent / ".claims", {"search": name}), board, storage as opened:
        study = Study(opened, study_name, plan.goals, about, lambda call: patiently(call, clock, Notes(board.note)))
        for goals, trials in warm:
            for trial in ranked(trials, goals):
                told = {goal.metric: v for goal, v in zip(goals, trial.values, strict=True)} | dict(trial.metrics)
                values = [told[goal.metric] for goal in plan.goals if goal.metric in told]
                params = {key: value for key, value in trial.params.items() if _known(plan.domains, key, value)}
                if params and len(values) == len(plan.goals):
                    study.remember(params, plan.domains, values)
        engine = Engine(plan, study)
        if not engine.over:
            run(engine, objective, folder, lambda: board.show(engine))
            board.show(engine, last=True)
    return tuple(study.trials.values())


def checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"search: name={name!r}: give letters, digits, and . _ - (up to 100, a letter or digit first)"
        )
    return name


def about(space: Any, plan: Plan, objective: str, warm: Sequence[str]) -> dict[str, Any]:
    """What must be the same for a search to go on: all but how many trials there are to be, and where they run."""
    return {
        **{f"{PLACE}{place}": str(domain) for place, domain in plan.domains.items()},
        "space": hashlib.sha256(canonical(_spelled(space))).hexdigest()[:16],
        "objective": objective,
        "goals": ", ".join(f"{goal.metric} {goal.direction}" for goal in plan.goals),
        "strategy": repr(plan.strategy),
        "rungs": repr(plan.rungs),
        "seed": plan.seed,
        "first": json.dumps([dict(one) for one in plan.first], sort_keys=True, default=str),
        "start_from": ", ".join(warm),
    }


def _known(domains: Mapping[str, Domain], name: str, value: Any) -> bool:
    domain = domains.get(name)
    return domain is not None and domain.accepts(value)


def _spelled(space: Any) -> Any:
    if isinstance(space, Choice):
        return ["choice", space.name, [[str(label), _spelled(option)] for label, option in space.options.items()]]
    if isinstance(space, Repeat):
        return ["repeat", _spelled(space.block), _spelled(space.times)]
    if isinstance(space, Made):
        given = [_spelled(part) for part in space.arguments], {k: _spelled(part) for k, part in space.keywords.items()}
        return ["made", spelled_call(space.call), *given]
    if isinstance(space, Mapping):
        return {str(key): _spelled(part) for key, part in space.items()}
    if isinstance(space, list | tuple):
        return [_spelled(part) for part in space]
    if callable(space):
        return spelled_call(space)
    return repr(space)
