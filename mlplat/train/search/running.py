"""One trial, where it runs: what its objective is given, and what comes of it."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from mlplat.errors import InvalidInput, MlplatError, UserCodeError
from mlplat.model.space import fill
from mlplat.train.search.engine import Task


class Objective(Protocol):
    """What is to be optimised. `made` is the space with everything chosen. It gives its goals' metrics by name, or where there is
    one goal a number, and is to be the same for the same `made` and `trial.seed`."""

    def __call__(self, made: Any, trial: Running, /) -> float | Mapping[str, float]: ...


class GivenUp(BaseException):
    """Ends a trial that is behind others. No error: code that catches those lets it through."""


class GiveWay(BaseException):
    """Ends a trial whose slots others are to have; it is begun again later. What it wants to go on with is in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """`again`: another attempt may end otherwise."""

    error: str
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """It gave way, or was given up."""

    gave_way: bool


Event = Told | Done | Failed | Left


class Running:
    """A trial that runs. `folder` is its own, and is there again when it goes on after it gave way or was killed."""

    def __init__(self, task: Task, folder: Path, tell: Callable[[int, float], bool], asked: Callable[[], bool]) -> None:
        self.number, self.seed, self.attempt, self.params = task.number, task.seed, task.attempt, task.params
        self._folder, self._tell, self._asked = folder, tell, asked

    @property
    def folder(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def report(self, step: int, value: float) -> None:
        """The first goal's metric after `step`, a whole number that grows. Does not return where the trial ends here: because it
        is behind others, or others are to have its slots."""
        if not self.tell(step, value):
            raise GivenUp
        if self.asked():
            raise GiveWay

    def tell(self, step: int, value: float) -> bool:
        """As `report`, but says whether the trial is to go on."""
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise InvalidInput(f"report: step={step!r} must be a whole number from 0")
        return self._tell(step, float(value))

    def asked(self) -> bool:
        """Whether others are to have its slots: it is to leave what it needs in its folder, and to raise `GiveWay`."""
        return self._asked()


def evaluate(objective: Objective, space: Any, trial: Running, goals: Sequence[str]) -> Event:
    """To its end, whichever it is."""
    try:
        made = fill(space, lambda name, domain: trial.params[name])
        return Done(metrics=_metrics(objective(made, trial), goals))
    except GivenUp:
        return Left(gave_way=False)
    except GiveWay:
        return Left(gave_way=True)
    except MlplatError as error:
        return Failed(
            error=f"{type(error).__name__}: {error}", again=not isinstance(error, InvalidInput | UserCodeError)
        )
    except Exception as error:  # noqa: BLE001  # the user's own, whichever it is: it is recorded
        return Failed(error=_of_user(error), again=True)


class Stepper:
    """A trial in a thread of its own, which stands still whenever it has told something, until it is said how it goes on."""

    def __init__(self, objective: Objective, space: Any, goals: Sequence[str], asked: Callable[[], bool]) -> None:
        self._objective, self._space, self._goals, self._asked = objective, space, goals, asked
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def begin(self, task: Task, folder: Path) -> Event:
        def tell(step: int, value: float) -> bool:
            self._events.put(Told(step=step, value=value))
            return self._answers.get()

        def run() -> None:
            trial = Running(task, folder, tell, self._asked)
            self._events.put(evaluate(self._objective, self._space, trial, self._goals))

        threading.Thread(target=run, name=f"trial {task.number}", daemon=True).start()
        return self._events.get()

    def go_on(self, *, goes_on: bool) -> Event:
        """What comes next; of a trial that does not go on, how it left."""
        self._answers.put(goes_on)
        return self._events.get()


def _metrics(found: object, goals: Sequence[str]) -> dict[str, float]:
    if isinstance(found, Mapping):
        return {str(name): _number(str(name), value) for name, value in found.items()}
    if len(goals) > 1:
        raise InvalidInput(f"the objective gave {found!r}: of several goals give a dict with {', '.join(goals)}")
    return {goals[0]: _number(goals[0], found)}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not (isinstance(value, Real) or hasattr(value, "__float__")):
        raise InvalidInput(f"the objective gave {name}={value!r}, which is no number")
    return float(value)


def _of_user(error: Exception) -> str:
    """The traceback from the user's own code on."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__]
    lines = traceback.format_list(own) + traceback.format_exception_only(error)
    return "".join(lines).strip()
