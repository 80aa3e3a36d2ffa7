"""The record of a search: every trial with what was chosen, told and found. All that a search knows comes from here, so that one
that was killed goes on as if it had not been.

Optuna keeps it, in a journal or a database. Its samplers look at a copy in memory, and what they choose is written down as one
record before the trial begins: of a trial there is everything, or it is not there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import uuid4

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from mlplat.errors import Corrupt, InvalidInput, NotFound, Unavailable
from mlplat.metadata.port import Goal
from mlplat.model.space import Choice, Domain, Integer
from mlplat.train.search.trial import State, Trial

Result = TypeVar("Result")
Sampler = optuna.samplers.BaseSampler
Ask = Callable[[str, Domain], Any]
Patience = Callable[[Callable[[], Any]], Any]
"""Calls again while that raises `Unavailable`, for as long as is sensible."""

_STATES: Mapping[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}
_OF_STATES = {word: state for state, word in _STATES.items()}
_DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
_ABOUT = "mlplat"
"""The attribute of a study that says what is searched, and of a trial with what Optuna has no place for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal(Generic[Result]):
    """What a sampler chose, and what that makes. Nothing of it is kept yet."""

    params: Mapping[str, Any]
    made: Result
    copied: int


class Study:
    """One process at a time has it open. Every write is durable when its call returns, and is made once, however often the
    storage was away meanwhile."""

    def __init__(
        self, storage: BaseStorage, name: str, goals: Sequence[Goal], about: Mapping[str, Any], patience: Patience
    ) -> None:
        """`about` is what must be the same for a search to go on: `InvalidInput` says what is not."""
        self.name, self.goals = name, tuple(goals)
        self._storage, self._patience = storage, patience
        self._directions = [_DIRECTIONS[goal.direction] for goal in goals]
        self._study_id = self._asked(lambda: self._opened(about))
        self._ids: dict[int, int] = {}
        self._copy = optuna.create_study(storage=InMemoryStorage(), directions=self._directions, study_name=name)
        self._copied: dict[int, int] = {}
        self.trials: dict[int, Trial] = {}
        for frozen in self._frozen():
            self._ids[frozen.number] = frozen._trial_id
            self._copied[frozen.number] = self._copy._storage.create_new_trial(self._copy._study_id, frozen)
            self._know(frozen)

    def remember(self, params: Mapping[str, Any], domains: Mapping[str, Domain], values: Sequence[float]) -> None:
        """Have samplers know of a trial that is not of this search. Not kept: call it again before the first proposal."""
        distributions = {name: _distribution(domains[name]) for name in params}
        self._copy.add_trial(create_trial(params=dict(params), distributions=distributions, values=list(values)))

    def propose(
        self, sampler: Sampler, fixed: Mapping[str, Any], fill: Callable[[Ask], Result]
    ) -> tuple[Proposal[Result | None], str]:
        """What `sampler` chooses, given all trials so far, but where `fixed` has a value that. Call `begin` or `reject` with
        it."""
        self._copy.sampler = sampler
        if fixed:
            self._copy.enqueue_trial(dict(fixed))
        trial = self._copy.ask()
        made, problem = None, ""
        try:
            made = fill(lambda name, domain: _suggested(trial, name, domain))
        except InvalidInput as error:
            problem = str(error)
        return Proposal(params=trial.params, made=made, copied=trial._trial_id), problem

    def reject(self, proposal: Proposal[Any]) -> None:
        self._copy._storage.set_trial_state_values(proposal.copied, TrialState.FAIL)

    def begin(self, proposal: Proposal[Any], digest: str = "") -> Trial:
        chosen = self._copy._storage.get_trial(proposal.copied)
        known = {"attempts": 1, "digest": digest, "token": uuid4().hex}
        template = create_trial(
            state=TrialState.RUNNING,
            params=chosen.params,
            distributions=chosen.distributions,
            user_attrs={_ABOUT: known},
        )
        template.datetime_start, tried = chosen.datetime_start, False

        def create() -> FrozenTrial:
            nonlocal tried
            if tried:  # it may be there, and only the answer was lost
                for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False):
                    if frozen.user_attrs.get(_ABOUT, {}).get("token") == known["token"]:
                        return frozen
            tried = True
            return self._storage.get_trial(self._storage.create_new_trial(self._study_id, template))

        frozen = self._asked(create)
        self._ids[frozen.number], self._copied[frozen.number] = frozen._trial_id, proposal.copied
        return self._know(frozen)

    def again(self, number: int) -> Trial:
        """It is begun once more."""
        return self._note(number, attempts=self.trials[number].attempts + 1)

    def step(self, number: int, step: int, value: float) -> Trial:
        """What a trial told of its first goal. A repeated one stands as it was told first."""
        if step not in self.trials[number].steps:
            for storage, trial_id in self._both(number):
                self._asked(partial(storage.set_trial_intermediate_value, trial_id, step, value))
        return self._again(number)

    def end(
        self,
        number: int,
        state: State,
        *,
        values: Sequence[float] = (),
        metrics: Mapping[str, float] | None = None,
        error: str = "",
    ) -> Trial:
        """How a trial ended: `done` with the goals' values, or `stopped`, or `failed`. One that has ended stays as it did."""
        if self.trials[number].ended:
            return self.trials[number]
        if metrics or error:
            self._note(number, metrics=_plain(metrics or {}), error=error)
        for storage, trial_id in self._both(number):

            def end(s: BaseStorage = storage, i: int = trial_id) -> None:
                with suppress(UpdateFinishedTrialError):  # an earlier call was heard
                    s.set_trial_state_values(i, _OF_STATES[state], list(values) or None)

            self._asked(end)
        return self._again(number)

    def _note(self, number: int, **more: Any) -> Trial:
        trial_id = self._ids[number]
        known = {**self._asked(lambda: self._storage.get_trial(trial_id)).user_attrs[_ABOUT], **more}
        self._asked(lambda: self._storage.set_trial_user_attr(trial_id, _ABOUT, known))
        return self._again(number)

    def _both(self, number: int) -> Iterator[tuple[BaseStorage, int]]:
        yield self._storage, self._ids[number]
        yield self._copy._storage, self._copied[number]

    def _again(self, number: int) -> Trial:
        return self._know(self._asked(lambda: self._storage.get_trial(self._ids[number])))

    def _know(self, frozen: FrozenTrial) -> Trial:
        self.trials[frozen.number] = _trial(frozen)
        return self.trials[frozen.number]

    def _frozen(self) -> list[FrozenTrial]:
        found = self._asked(lambda: self._storage.get_all_trials(self._study_id, deepcopy=False))
        for frozen in found:
            if frozen.state not in _STATES or _ABOUT not in frozen.user_attrs:
                raise Corrupt(
                    f"the search {self.name!r}: another program has written trial {frozen.number} into its record"
                )
        return list(found)

    def _opened(self, about: Mapping[str, Any]) -> int:
        try:
            found = int(self._storage.get_study_id_from_name(self.name))
        except KeyError:
            found = int(self._storage.create_new_study(self._directions, study_name=self.name))
        known = self._storage.get_study_user_attrs(found).get(_ABOUT)
        if known is None:
            self._storage.set_study_user_attr(found, _ABOUT, dict(about))
        elif differing := _differing(known, about):
            raise InvalidInput(
                f"the search {self.name!r} was begun otherwise: {'; '.join(differing)}. Give the new one another name"
            )
        return found

    def _asked(self, call: Callable[[], Result]) -> Result:
        def translated() -> Result:
            with _answers(self.name):
                return call()

        found: Result = self._patience(translated)
        return found


def read(storage: AbstractContextManager[BaseStorage], name: str) -> tuple[tuple[Goal, ...], tuple[Trial, ...]]:
    """The goals and trials of a study that another process may have open. `NotFound` if there is none."""
    with _answers(name), storage as opened:
        try:
            study_id = opened.get_study_id_from_name(name)
        except KeyError:
            raise NotFound(f"there is no search {name.rpartition('/')[2]!r}") from None
        known = opened.get_study_user_attrs(study_id)[_ABOUT]
        trials = tuple(_trial(frozen) for frozen in opened.get_all_trials(study_id, deepcopy=False))
    pairs = [said.rsplit(" ", 1) for said in known["goals"].split(", ")]
    return tuple(Goal(metric=metric, direction=direction) for metric, direction in pairs), trials


@contextmanager
def _answers(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, StorageInternalError, SQLAlchemyError) as error:
        raise Unavailable(f"the record of the search {name!r} is not to be used now: {_first_line(error)}") from error


def _trial(frozen: FrozenTrial) -> Trial:
    known = frozen.user_attrs[_ABOUT]
    return Trial(
        number=frozen.number,
        state=_STATES[frozen.state],
        params=frozen.params,
        steps=frozen.intermediate_values,
        values=tuple(frozen.values or ()),
        metrics=known.get("metrics", {}),
        attempts=known["attempts"],
        error=known.get("error", ""),
        seconds=0.0 if frozen.duration is None else frozen.duration.total_seconds(),
        digest=known["digest"],
    )


def _suggested(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(name, tuple(domain.options))
    if isinstance(domain, Integer):
        return trial.suggest_int(name, domain.low, domain.high, log=domain.log, step=domain.step)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(tuple(domain.options))
    if isinstance(domain, Integer):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _differing(known: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    names = [name for name in dict.fromkeys((*known, *about)) if known.get(name) != about.get(name)]
    if names == ["space"]:  # a digest tells people nothing
        return ["what is not chosen in its space, or the code in it, has changed"]
    said = [name for name in names if name != "space"]
    return [f"{name} was {known.get(name, 'not there')}, and is {about.get(name, 'not there')}" for name in said]


def _plain(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON has no NaN."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
