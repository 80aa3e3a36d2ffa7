"""The search itself, without anything that runs: what to try next, and what becomes of what was found. Whoever runs trials, in
this process or on a cluster, asks here and tells here; all of it is in the record before an answer is given."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from mlplat.errors import InvalidInput
from mlplat.metadata.port import Goal
from mlplat.model.space import Domain, domains, fill
from mlplat.train.search.rungs import Rungs
from mlplat.train.search.strategy import Random, Strategy
from mlplat.train.search.study import Study
from mlplat.train.search.trial import Trial

Method = TypeVar("Method", bound=Callable[..., Any])

TRIES = 20
"""So often another is chosen where one was tried before, or is over a limit."""
LOSSES = 3
"""So often a trial is begun again whose process was lost, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A trial to run. `seed` is of the search and the number alone."""

    number: int
    attempt: int
    seed: int
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is searched. `check` says what is wrong with a candidate, before it becomes a trial; `digest` which candidates are the
    same, if trying one twice would tell nothing new. `first` are tried first, of what they name. `retries`: so often a trial
    that crashed is begun again."""

    space: Any
    goals: tuple[Goal, ...]
    trials: int
    strategy: Strategy
    seed: int = 0
    rungs: Rungs | None = None
    retries: int = 0
    first: Sequence[Mapping[str, Any]] = ()
    check: Callable[[Any], str | None] = lambda made: None
    digest: Callable[[Mapping[str, Any], Any], str] = lambda params, made: ""
    domains: Mapping[str, Domain] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "domains", domains(self.space))
        if not isinstance(self.trials, int) or self.trials < 1:
            raise InvalidInput(f"trials={self.trials!r} must be a whole number from 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidInput(f"seed={self.seed!r} must be a whole number from 0")
        if self.rungs is not None and len(self.goals) > 1:
            raise InvalidInput("rungs: of several goals none says which trial is behind; give one goal, or no rungs")
        for given in self.first:
            for name, value in given.items():
                if name not in self.domains:
                    raise InvalidInput(f"first: no place is called {name!r}; there are {', '.join(self.domains)}")
                if not self.domains[name].accepts(value):
                    raise InvalidInput(f"first: {name}={value!r} is not {self.domains[name]}")


def _alone(method: Method) -> Method:
    """One thread at a time."""

    @wraps(method)
    def alone(self: Engine, *arguments: Any, **keywords: Any) -> Any:
        with self._lock:
            return method(self, *arguments, **keywords)

    return alone  # type: ignore[return-value]


class Engine:
    """For several threads."""

    def __init__(self, plan: Plan, study: Study) -> None:
        self.plan, self.study = plan, study
        self._waiting = deque(trial.number for trial in study.trials.values() if not trial.ended)
        self._running: dict[int, Task] = {}
        self._exhausted = False
        self._lock = threading.RLock()

    @property
    def over(self) -> bool:
        """No trial runs or is to come."""
        with self._lock:
            return not self._running and not self._more

    @property
    def _more(self) -> bool:
        return bool(self._waiting) or (
            len(self.study.trials) < self.plan.trials and not self._exhausted and not self._reached
        )

    @property
    def left(self) -> int:
        """Trials that have not ended, of those that are to be."""
        with self._lock:
            ended = sum(trial.ended for trial in self.study.trials.values())
            return 0 if self.over else max(self.plan.trials, len(self.study.trials)) - ended

    @property
    def _reached(self) -> bool:
        """Whether a trial has all goals' targets."""
        if any(goal.target is None for goal in self.plan.goals):
            return False
        return any(
            trial.state == "done" and all(g.reached(v) for g, v in zip(self.plan.goals, trial.values, strict=True))
            for trial in self.study.trials.values()
        )

    @_alone
    def next(self) -> Task | None:
        """The next trial: one that was begun and has not ended, or a new one. None if there is none now."""
        if self._waiting:
            trial = self.study.trials[self._waiting.popleft()]
        elif self._more:
            found = self._new()
            if found is None:
                return None
            trial = found
        else:
            return None
        task = Task(
            number=trial.number,
            attempt=trial.attempts,
            seed=_seed(self.plan.seed, trial.number),
            params=trial.params,
        )
        self._running[trial.number] = task
        return task

    @_alone
    def told(self, number: int, step: int, value: float) -> bool:
        """After `step` the first goal was that. False: the trial is to be given up, and is recorded as such."""
        rungs = self.plan.rungs
        if number not in self._running:
            return False
        trial = self.study.step(number, step, float(value))
        if rungs is None:
            return True
        others = [one.steps for one in self.study.trials.values() if one.number != number]
        if rungs.goes_on(number, step, trial.steps, others, best=self.plan.goals[0].direction):
            return True
        self._running.pop(number)
        self.study.end(number, "stopped")
        return False

    @_alone
    def done(self, number: int, metrics: Mapping[str, float]) -> None:
        """It has ended. What is no number for a goal has failed."""
        if number not in self._running:
            return
        lacking = [goal.metric for goal in self.plan.goals if goal.metric not in metrics]
        values = [float(metrics.get(goal.metric, math.nan)) for goal in self.plan.goals]
        unreal = [goal.metric for goal, v in zip(self.plan.goals, values, strict=True) if not math.isfinite(v)]
        if lacking or unreal:
            what = f"it gave no {lacking[0]}" if lacking else f"{unreal[0]} is {metrics[unreal[0]]}"
            self.failed(number, f"{what}; it gave {', '.join(metrics) or 'nothing'}" if lacking else what, again=False)
            return
        self._running.pop(number)
        more = {name: value for name, value in metrics.items() if name not in {goal.metric for goal in self.plan.goals}}
        self.study.end(number, "done", values=values, metrics=more)

    @_alone
    def failed(self, number: int, error: str, *, again: bool = True, lost: bool = False) -> None:
        """It crashed: it is begun again while it may be. `lost`: its process did, which says little of the trial."""
        if self._running.pop(number, None) is None:
            return
        trial = self.study.trials[number]
        if again and trial.attempts <= max(self.plan.retries, LOSSES if lost else 0):
            self.study.again(number)
            self._waiting.append(number)
        else:
            self.study.end(number, "failed", error=error)

    @_alone
    def yielded(self, number: int) -> None:
        """It gave way, and goes on later."""
        if self._running.pop(number, None) is not None:
            self._waiting.appendleft(number)

    def _new(self) -> Trial | None:
        """None if there is nothing left that was not tried."""
        number, plan = len(self.study.trials), self.plan
        fixed = plan.first[number] if number < len(plan.first) else {}
        known = {trial.digest for trial in self.study.trials.values() if trial.digest and trial.state != "failed"}
        over = ""
        for attempt in range(TRIES):
            strategy = plan.strategy if attempt < TRIES // 2 else Random()  # it insists on what is known
            sampler = strategy.sampler(
                seed=_seed(plan.seed, number, attempt), number=number + attempt, domains=plan.domains
            )
            proposal, problem = self.study.propose(sampler, fixed, lambda ask: fill(plan.space, ask))
            digest = plan.digest(proposal.params, proposal.made)
            if wrong := problem or plan.check(proposal.made):
                over = wrong
            elif fixed or digest not in known:
                return self.study.begin(proposal, digest)
            self.study.reject(proposal)
        if over:
            raise InvalidInput(
                f"search {self.study.name!r}: {TRIES} candidates were tried, and one was over a limit: {over}"
            )
        self._exhausted = True
        return None


def same_params(params: Mapping[str, Any], made: Any) -> str:
    """A digest by which those are the same for which the same was chosen."""
    return json.dumps(dict(params), sort_keys=True)


def _seed(*of: int) -> int:
    return int(np.random.SeedSequence(of).generate_state(1)[0])
