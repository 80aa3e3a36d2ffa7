"""Trials as Ray Tune runs them: it starts their processes and hears what they tell. What is tried next and what is given up the
search decides, whose record Tune never sees: so nothing of Tune's own state is missed after a crash."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.execution.resources import ResourceManager
from ray.tune import tune as ray_tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from mlplat._ray.niceness import last_of_all
from mlplat.config import carried, environment, in_environment, set_environment
from mlplat.jobs.demand import Demand
from mlplat.train.search.engine import Engine, Task
from mlplat.train.search.running import Event, Objective, Stepper, Told
from mlplat.train.search.settle import settle

# Tune's loggers and its own snapshots tell nothing that the record does not.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one says what it begins with, however silent it is to be
}


def run_on_tune(
    engine: Engine,
    objective: Objective,
    folder: Path,
    demand: Demand,
    *,
    at_once: int,
    heard: Callable[[], None],
    slots: ResourceManager | None,
) -> None:
    """Until the search is over. `slots` is where Tune gets room for a trial, if not from Ray alone."""
    storage = folder / ".tune"
    shutil.rmtree(storage, ignore_errors=True)
    given = ray.put((objective, engine.plan.space, [goal.metric for goal in engine.plan.goals]))
    searcher = _Searcher(engine, heard)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(given, folder), _bundles(demand)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_Scheduler(engine, searcher),
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=slots is None,  # a lease is one trial's
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage.absolute()),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        with in_environment(_ENVIRONMENT), _room_from(slots), _silence(), _own_signals():
            tuner.fit()
        if not engine.over:  # Tune hears Ctrl-C, and returns
            raise KeyboardInterrupt
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _bundles(demand: Demand) -> tune.PlacementGroupFactory:
    """Of one worker its own process is the trial's; several are started by that, beside it."""
    each = dict(demand.resources)
    if demand.count == 1:
        return tune.PlacementGroupFactory([each])
    return tune.PlacementGroupFactory([{}, *[each] * demand.count])


def _trainable(given: Any, folder: Path) -> type[tune.Trainable]:
    variables = carried(environment())

    class Trial(tune.Trainable):  # type: ignore[misc]
        """Stands still between two results, as Tune has it."""

        def setup(self, config: dict[str, Any]) -> None:
            last_of_all()
            set_environment(variables, override=True)  # before the user's code is there
            self._given: tuple[Objective, Any, Sequence[str]] = ray.get(given)
            self._begin(config)

        def _begin(self, config: dict[str, Any]) -> None:
            self._task: Task = config["task"]
            asked = _asked_in(folder)
            self._stepper = Stepper(*self._given, asked)
            self._event: Event | None = None

        def step(self) -> dict[str, Any]:
            if self._event is None:
                self._event = self._stepper.begin(self._task, folder / str(self._task.number))
            else:
                self._event = self._stepper.go_on(goes_on=True)
            return {"event": self._event, "done": not isinstance(self._event, Told)}

        def cleanup(self) -> None:
            if isinstance(self._event, Told):  # given up
                self._event = self._stepper.go_on(goes_on=False)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.cleanup()
            self._begin(new_config)
            return True

    return Trial


def _asked_in(folder: Path) -> Callable[[], bool]:
    """Whether the slots that this process is in are to be given back."""
    group = ray.util.get_current_placement_group()
    return (lambda: False) if group is None else stop_file(folder, group.id.hex()).exists


def stop_file(folder: Path, group_id: str) -> Path:
    return folder / f".stop-{group_id}"


class _OfThisProcess:
    """Tune writes down and copies what it is given: of this there is nothing to write, and only one."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class _Searcher(_OfThisProcess, Searcher):  # type: ignore[misc]
    def __init__(self, engine: Engine, heard: Callable[[], None]) -> None:
        super().__init__()
        self._engine, self.heard = engine, heard
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        task = self._engine.next()
        self.heard()
        if task is None:
            over: str | None = Searcher.FINISHED if self._engine.over else None
            return over
        self._numbers[trial_id] = task.number
        return {"task": task}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None: ...

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Of one that was given up the record has it already."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        event = (result or {}).get("event")
        if error or event is None:
            self._engine.failed(number, "its process died", lost=True)
        elif not isinstance(event, Told):
            settle(self._engine, number, event)
        self.heard()

    def number(self, trial_id: str) -> int:
        return self._numbers[trial_id]

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Scheduler(_OfThisProcess, FIFOScheduler):  # type: ignore[misc]
    def __init__(self, engine: Engine, searcher: _Searcher) -> None:
        super().__init__()
        self._engine, self._searcher = engine, searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        event = result.get("event")
        goes_on = not isinstance(event, Told) or settle(self._engine, self._searcher.number(trial.trial_id), event)
        self._searcher.heard()
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


@contextmanager
def _silence() -> Iterator[None]:
    """What it says of trials the search says itself, and it misses files that it was told not to write."""
    log = logging.getLogger("ray.tune")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Tune (2.60) leaves its handlers behind, and the next Ctrl-C would stop nothing."""
    if threading.current_thread() is not threading.main_thread():  # it sets none there
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_patching = threading.Lock()


@contextmanager
def _room_from(slots: ResourceManager | None) -> Iterator[None]:
    """Tune's controller takes a resource manager, and `tune.run` (2.60) has no way to give it one."""
    if slots is None:
        yield
        return

    class Controller(TuneController):  # type: ignore[misc]
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments, resource_manager_factory=lambda: slots)

    with _patching:
        ray_tune.TuneController = Controller
        try:
            yield
        finally:
            ray_tune.TuneController = TuneController
