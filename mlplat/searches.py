"""Searches of a home: for hyperparameters and architectures, of trainings or of any function."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import polars as pl

from mlplat.errors import InvalidInput, NotFound
from mlplat.features.training_set import TrainingSet
from mlplat.home import home_id
from mlplat.jobs.demand import Demand
from mlplat.jobs.lease import Lease
from mlplat.jobs.queue import Options
from mlplat.metadata.port import Goal, Metadata
from mlplat.metadata.postgres import driver_url
from mlplat.model.architecture import mlp
from mlplat.train.judged import LOSSES
from mlplat.train.progress import Notes
from mlplat.train.run import Run
from mlplat.train.science import Loss, Metric, Optimizer, Science, spelled
from mlplat.train.search.board import Board
from mlplat.train.search.cost import LATENCY
from mlplat.train.search.engine import Engine, Plan, same_params
from mlplat.train.search.here import run_here
from mlplat.train.search.keeping import forget, models, recorded
from mlplat.train.search.limits import checked
from mlplat.train.search.ranking import ranked, summary, table
from mlplat.train.search.rungs import Rungs
from mlplat.train.search.running import Objective
from mlplat.train.search.search import RunTrials, Search, about, checked_name, run_search
from mlplat.train.search.storage import opened_storage
from mlplat.train.search.strategy import Strategy, Tpe
from mlplat.train.search.study import read
from mlplat.train.search.training import Training
from mlplat.train.search.trial import Trial
from mlplat.train.settings import TrainSettings
from mlplat.train.trainer import TrainedModel
from mlplat.workers import Workers

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

Executor = Literal["auto", "tune", "warm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is searched for. `said` is what is tried, in a few words, and `under` the experiment of its records; `training` is the
    objective, if it is one, and `run` how its models are registered."""

    name: str
    goals: tuple[Goal, ...]
    objective: Objective
    said: str
    under: str
    training: Training | None = None
    run: Run | None = None


class Searches(Workers):
    """A part of `Platform`, which has the stores and Ray."""

    @property
    @abstractmethod
    def metadata(self) -> Metadata: ...

    def search(
        self,
        space: Any,
        data: TrainingSet | Objective,
        *,
        trials: int = 50,
        name: str | None = None,
        goal: Goal | Sequence[Goal] | None = None,
        strategy: Strategy | None = None,
        rungs: Rungs | None = None,
        compute: str | Mapping[str, Any] = "cpu:1",
        at_once: int | None = None,
        executor: Executor = "auto",
        priority: str = "explore",
        settings: TrainSettings | None = None,
        loss: Loss | None = None,
        metrics: Mapping[str, Metric] | None = None,
        optimizer: Optimizer | None = None,
        limits: Mapping[str, float] | None = None,
        first: Sequence[Mapping[str, Any]] = (),
        start_from: Sequence[str] = (),
        retries: int = 0,
        seed: int = 0,
        keep: int = 3,
        tags: Mapping[str, str] | None = None,
    ) -> Search:
        """Try `trials` points of `space` (`mlplat.space`), and keep the `keep` best.

        Trials are trainings on a training set, where the space has the network and settings by name, or calls of a function of
        your own (`mlplat.train.search.running.Objective`). Each has what `compute` says; `at_once` of them run at a time, or as
        many as there is room for. On a cluster that others use too each is a job of its queue, by `priority`: it gives way and
        goes on later. `executor`: Ray Tune runs trials ("tune"), or processes that stay do ("warm"), which is better for trials
        of less than a second; "auto" times the first two.

        The same call again goes on with a search that was killed or stopped, with more `trials` with one that had ended; nothing
        that was found is lost, and no trial is done twice. `name` tells searches apart (default: that of the training set).
        `goal` is what is optimised: one or several metrics (default: the goal of the name, or the loss). `rungs` give up early on
        trials that are behind. `limits` are for "parameters" and "latency_ms" of networks. `first` are points to begin with,
        as far as they are given; `start_from` names searches whose trials tell this one where to look. A trial that crashes is
        begun again `retries` times, and then recorded as failed, with its traceback. `tags` are recorded with what comes of it.

        Raises `InvalidInput` for a space without a choice, or a search of this name that was begun otherwise; `Conflict` while
        another process has it.
        """
        if executor not in get_args(Executor):
            raise InvalidInput(f"executor={executor!r} must be {' or '.join(map(repr, get_args(Executor)))}")
        demand, board = Demand.parse(compute), Board(self._clock)
        science = Science(network=mlp(), loss=loss, metrics=metrics or {}, optimizer=optimizer)
        target = self._target(data, name, goal, science, settings or TrainSettings(), demand, board)
        training = target.training
        plan = Plan(
            space=space,
            goals=target.goals,
            trials=trials,
            strategy=strategy or Tpe(),
            seed=seed,
            rungs=rungs,
            retries=retries,
            first=tuple(first),
            check=checked(training, limits or {}) if training else lambda made: None,
            digest=training.digest if training else same_params,
        )
        folder, what = self._search_folder(target.name), about(space, plan, target.said, start_from)
        options: Options = {"name": f"{target.name} trial", "priority": priority}
        found = run_search(
            target.name,
            plan,
            target.objective,
            storage=self._storage_of(folder, make=True),
            folder=folder,
            clock=self._clock,
            board=board,
            run=run_here if demand.in_process else self._on_cluster(board.note, demand, executor, at_once, options),
            warm=[self._recorded_search(other) for other in start_from],
            about=what,
            study_name=self._study_name(target.name),
        )
        best = ranked(found, plan.goals)[:keep]
        run_id = recorded(
            target.name, found, plan.goals, what, folder, tags or {}, under=target.under, metadata=self.metadata
        )
        forget(folder, found, best)
        kept: tuple[TrainedModel, ...] = ()
        if training is not None and target.run is not None:
            kept = models(target.name, best, folder, training, space, target.run, tags or {}, parent=run_id)
        return Search(name=target.name, goals=plan.goals, trials=found, models=kept)

    def _target(
        self,
        data: TrainingSet | Objective,
        name: str | None,
        goal: Goal | Sequence[Goal] | None,
        science: Science,
        settings: TrainSettings,
        demand: Demand,
        board: Board,
    ) -> Target:
        if not isinstance(data, TrainingSet):
            if not callable(data):
                raise InvalidInput(f"data={data!r}: give a training set, or a function of what is chosen and the trial")
            if name is None:
                raise InvalidInput("name: a search of your own function needs one, by which it is found again")
            return Target(name=name, goals=_goals(goal, "loss"), objective=data, said=spelled(data), under=name)
        name = name or data.name
        goals = _goals(goal or self.metadata.goal(data.name), LOSSES[settings.task])
        run = Run(
            data=data,
            science=science,
            settings=settings,
            demand=demand,
            metadata=self.metadata,
            home=self.home,
            scratch=self.scratch,
            clock=self._clock,
            progress=Notes(board.note),
            code=Path.cwd(),
        )
        training = Training(
            work=run.work(self._search_folder(name)),
            demand=demand,
            metric=goals[0].metric,
            timed=any(one.metric == LATENCY for one in goals),
        )
        rest = {part: value for part, value in science.spelled().items() if part != "network"}
        said = f"{data.name} {data.snapshot[:12]}, {settings.science()}, {rest}, {demand}"
        return Target(
            name=name, goals=goals, objective=training, said=said, under=data.name, training=training, run=run
        )

    def trials(self, name: str) -> tuple[Trial, ...]:
        """Those of a search, also of one that is still going on. `NotFound` if there is none of that name."""
        return self._recorded_search(name)[1]

    def leaderboard_of(self, name: str) -> pl.DataFrame:
        """`Search.table` of a search, also of one that is still going on, in another process."""
        goals, trials = self._recorded_search(name)
        return table(trials, goals)

    def searches(self) -> pl.DataFrame:
        """All searches of the home by name: how many trials are in which state, and the first goal of the best."""
        found = {}
        for folder in sorted((self.home / "searches").glob("[!.]*/")):
            with suppress(NotFound):  # it is just being begun
                found[folder.name] = self._recorded_search(folder.name)
        return summary(found)

    def _recorded_search(self, name: str) -> tuple[tuple[Goal, ...], tuple[Trial, ...]]:
        folder = self._search_folder(name)
        return read(self._storage_of(folder, make=False), self._study_name(name))

    def _search_folder(self, name: str) -> Path:
        return (self.home / "searches" / checked_name(name)).resolve()

    def _study_name(self, name: str) -> str:
        """Homes share a database."""
        return f"{home_id(self.home)}/{name}"

    def _storage_of(self, folder: Path, *, make: bool) -> AbstractContextManager[BaseStorage]:
        url = self._settings.metadata
        return opened_storage(folder, None if url is None else driver_url(url.get_secret_value()), make=make)

    def _on_cluster(
        self,
        note: Callable[[str], None],
        demand: Demand,
        executor: Executor,
        at_once: int | None,
        options: Options,
    ) -> RunTrials:
        """How trials are run there."""

        def run(engine: Engine, objective: Objective, folder: Path, heard: Callable[[], None]) -> None:
            from mlplat.train.search._ray.run import run_on_cluster
            from mlplat.train.search._ray.slots import FromQueue

            self._admit(demand, Notes(note))
            total = self.session.total()
            room = min(int(total.get(name, 0.0) // amount) for name, amount in demand.resources) // demand.count
            jobs = self.jobs if self.session.shared else None

            def on_workers(work: Callable[[Lease | None], None]) -> None:
                work(None) if jobs is None else jobs.run(work, demand, say=note, **options)

            run_on_cluster(
                engine,
                objective,
                folder,
                heard,
                demand=demand,
                executor=executor,
                at_once=max(1, room if at_once is None else min(at_once, room)),
                on_workers=on_workers,
                slots=None if jobs is None else FromQueue(jobs, demand, folder, options, note),
            )

        return run


def _goals(goal: Goal | Sequence[Goal] | None, loss: str) -> tuple[Goal, ...]:
    if goal is None:
        return (Goal(metric=loss, direction="min"),)
    found = (goal,) if isinstance(goal, Goal) else tuple(goal)
    if not found or not all(isinstance(one, Goal) for one in found):
        raise InvalidInput(f"goal={goal!r}: give a Goal, or several")
    return found
