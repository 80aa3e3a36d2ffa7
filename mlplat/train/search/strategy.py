"""How the next trial is chosen. Each is asked for a sampler of Optuna's for one trial, made of a seed and what is recorded: so
none has a state that a crash could lose."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from mlplat.errors import InvalidInput
from mlplat.model.space import Choice, Domain, Integer


class Strategy(Protocol):
    def sampler(self, *, seed: int, number: int, domains: Mapping[str, Domain]) -> BaseSampler:
        """For trial `number` of a search. Everything that it draws comes of `seed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpe:
    """The tree-structured Parzen estimator (Bergstra et al., NIPS 2011), of all places together (Falkner et al., ICML 2018),
    after `startup` random trials."""

    startup: int = 10

    def sampler(self, *, seed: int, number: int, domains: Mapping[str, Domain]) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, n_startup_trials=self.startup, multivariate=True, group=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Each for itself."""

    def sampler(self, *, seed: int, number: int, domains: Mapping[str, Domain]) -> BaseSampler:
        return RandomSampler(seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All combinations in order, the last place first; of a range without steps `per_range` values, evenly spaced on its scale.
    After the last one it begins again."""

    per_range: int = 5

    def sampler(self, *, seed: int, number: int, domains: Mapping[str, Domain]) -> BaseSampler:
        values = [self._values(domain) for domain in domains.values()]
        at, chosen = number, {}
        for name, options in zip(reversed(list(domains)), reversed(values), strict=True):
            at, place = divmod(at, len(options))
            chosen[name] = options[place]
        return _Fixed(chosen)

    def _values(self, domain: Domain) -> list[Any]:
        if isinstance(domain, Choice):
            return list(domain.options)
        if (
            isinstance(domain, Integer)
            and not domain.log
            and (domain.high - domain.low) // domain.step < self.per_range
        ):
            return list(range(domain.low, domain.high + 1, domain.step))
        if domain.step is not None and not domain.log and not isinstance(domain, Integer):
            return [float(v) for v in np.arange(domain.low, domain.high + domain.step * 1e-9, domain.step)]
        spaced = np.geomspace if domain.log else np.linspace
        found = spaced(domain.low, domain.high, self.per_range)
        if isinstance(domain, Integer):
            step, low = domain.step, domain.low
            return sorted({low + round((float(v) - low) / step) * step for v in found})
        return [min(max(float(v), domain.low), domain.high) for v in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """Regularised evolution (Real et al., AAAI 2019): of the last `population` trials that ended, the best of `sample` random
    ones has one place changed. A number moves by a tenth of its range, as a normal distribution has it."""

    population: int = 50
    sample: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.sample <= self.population:
            raise InvalidInput(f"evolution: sample={self.sample} must be from 1 to population={self.population}")

    def sampler(self, *, seed: int, number: int, domains: Mapping[str, Domain]) -> BaseSampler:
        return _Evolving(seed, self.population, self.sample)


class _Fixed(RandomSampler):
    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(seed=0)
        self._values = values

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._values[param_name]


class _Evolving(RandomSampler):
    """The parent's value for each place but one. Places that the change brings with it, and it has not, are random."""

    def __init__(self, seed: int, population: int, sample: int) -> None:
        super().__init__(seed=seed)
        self._draw = np.random.default_rng(seed)
        self._population, self._sample = population, sample
        self._parent: FrozenTrial | None = None
        self._changed = ""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        ended = [
            one for one in study.get_trials(deepcopy=False) if one.state in {TrialState.COMPLETE, TrialState.PRUNED}
        ]
        if len(ended) < min(self._population, 20):
            return
        ended.sort(key=lambda one: (one.datetime_complete, one.number))
        living = ended[-self._population :]
        picked = [
            living[i] for i in sorted(self._draw.choice(len(living), min(self._sample, len(living)), replace=False))
        ]
        self._parent = _best(study, picked)
        places = [name for name, space in self._parent.distributions.items() if not space.single()]
        self._changed = places[int(self._draw.integers(len(places)))] if places else ""

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        parent = self._parent
        if parent is None or param_name not in parent.params:
            return super().sample_independent(study, trial, param_name, param_distribution)
        value = parent.params[param_name]
        return _mutated(value, param_distribution, self._draw) if param_name == self._changed else value


def _best(study: optuna.Study, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """By the first goal; one that was given up counts by what it told last."""
    sign = -1.0 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1.0

    def loss(trial: FrozenTrial) -> float:
        if trial.state == TrialState.COMPLETE:
            return sign * float(trial.values[0])
        return sign * trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else np.inf

    return min(trials, key=loss)


def _mutated(value: Any, space: BaseDistribution, draw: np.random.Generator) -> Any:
    if isinstance(space, CategoricalDistribution):
        others = [one for one in space.choices if one != value or type(one) is not type(value)]
        return others[int(draw.integers(len(others)))]
    assert isinstance(space, FloatDistribution | IntDistribution)
    scale = np.log if space.log else np.asarray
    low, high = float(scale(space.low)), float(scale(space.high))
    while True:
        moved = float(np.clip(float(scale(value)) + draw.normal(0.0, 0.1 * (high - low)), low, high))
        found = float(np.exp(moved)) if space.log else moved
        if isinstance(space, IntDistribution):
            found = int(
                np.clip(space.low + round((found - space.low) / space.step) * space.step, space.low, space.high)
            )
            if found == value:  # a step at least
                found = int(np.clip(value + space.step * (1 if draw.random() < 0.5 else -1), space.low, space.high))
        elif space.step is not None:
            found = float(
                np.clip(space.low + round((found - space.low) / space.step) * space.step, space.low, space.high)
            )
        else:
            found = float(np.clip(found, space.low, space.high))
        if found != value:
            return found
