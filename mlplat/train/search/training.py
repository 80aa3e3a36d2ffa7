"""Trainings as trials: from what a search chose to a run, and what that came to on the disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors import numpy as safetensors

from mlplat.clock import SystemClock
from mlplat.disk import write_atomically
from mlplat.errors import InvalidInput
from mlplat.jobs.demand import Demand
from mlplat.model.architecture import Architecture
from mlplat.model.estimator import Estimator
from mlplat.model.vocabulary import same_network
from mlplat.train.progress import EpochMetrics, Plan
from mlplat.train.science import Science
from mlplat.train.search.cost import LATENCY, built, latency_ms
from mlplat.train.search.running import GivenUp, GiveWay, Running
from mlplat.train.settings import TrainSettings
from mlplat.train.work import Learned, Work, Yielded

_SETTINGS = {field.name for field in fields(TrainSettings)}
_SCIENCE = {"network", "loss", "optimizer"}
FIXED = ("task", "holdout_s", "recovery")
"""Settings that are the same for all trials: they could not be compared."""
_WEIGHTS, _LEARNED = "weights.safetensors", "learned.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The objective. `work` has what all trials share; its science and settings stand where the space says nothing. `demand` is
    what each has, `metric` what it tells of each epoch; `timed`: its latency is a goal, too."""

    work: Work
    demand: Demand
    metric: str
    timed: bool = False

    def __call__(self, made: Any, trial: Running) -> Mapping[str, float]:
        science, settings = self.chosen(made)
        folder = trial.folder
        if (folder / _LEARNED).exists():  # it had ended, and only the record does not know
            return self._told(science, read_learned(folder))
        work = replace(self.work, science=science, settings=settings, folder=folder)
        progress = _Telling(trial, self.metric)
        found = self._run(work, progress)
        if progress.given_up:
            raise GivenUp
        if isinstance(found, Yielded):
            raise GiveWay
        _write_learned(folder, found)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return self._told(science, found)

    def chosen(self, made: Any) -> tuple[Science, TrainSettings]:
        """`InvalidInput` if the space is of something else than a training."""
        given = made if isinstance(made, Mapping) else {"network": made}
        if unknown := [name for name in given if name not in _SETTINGS | _SCIENCE]:
            raise InvalidInput(
                f"space: {', '.join(map(repr, unknown))}: a training has network, loss, optimizer, and the settings "
                f"{', '.join(sorted(_SETTINGS))}"
            )
        if fixed := [name for name in FIXED if name in given]:
            raise InvalidInput(f"space: {fixed[0]!r} must be the same for all trials: give it in settings=")
        own = {name: value for name, value in given.items() if name in _SCIENCE}
        if isinstance(own.get("network"), Mapping):
            own["network"] = Architecture.from_json(own["network"])
        settings = {name: value for name, value in given.items() if name in _SETTINGS}
        science = replace(self.work.science, **own)
        if self.timed and science.estimator is not None:
            raise InvalidInput(f"goal: {LATENCY} is of networks, and this space has an estimator")
        return science, replace(self.work.settings, **settings)

    def digest(self, params: Mapping[str, Any], made: Any) -> str:
        """The same of two candidates that would come to the same weights."""
        science, settings = self.chosen(made)
        spelled, network = science.spelled(), science.network
        if isinstance(network, Architecture):
            spelled["network"] = same_network(network)
        return json.dumps([spelled, settings.science()], sort_keys=True, default=str)

    def _run(self, work: Work, progress: _Telling) -> Learned | Yielded:
        stop, clock = progress.stop, SystemClock()
        if self.demand.count > 1:
            from mlplat.train.search._ray.nested import learn_beside

            return learn_beside(work, self.demand, progress, stop)
        if work.science.estimator is not None:
            from mlplat.train.fit import fit

            return fit(work, progress, clock, stop)
        import torch

        from mlplat.train.gang import Alone
        from mlplat.train.session import learn

        gpu = "GPU" in dict(self.demand.resources) and torch.cuda.is_available()
        return learn(work, Alone(torch.device("cuda" if gpu else "cpu")), progress, clock, stop)

    def _told(self, science: Science, learned: Learned) -> dict[str, float]:
        best = next(metrics for metrics in reversed(learned.history) if metrics.best)
        found = {
            **best.held_out,
            "epoch": float(best.epoch),
            "parameters": float(sum(value.size for value in learned.weights.values())),
            "size_bytes": float(sum(value.nbytes for value in learned.weights.values())),
        }
        if self.timed:
            found[LATENCY] = latency_ms(built(science.network, self.work.source), self.work.source)
        return found


class _Telling:
    """Progress that tells the search of each epoch."""

    def __init__(self, trial: Running, metric: str) -> None:
        self._trial, self._metric = trial, metric
        self.given_up = False

    def note(self, text: str) -> None: ...

    def begin(self, plan: Plan) -> None: ...

    def step(self, done: int, loss: float) -> None: ...

    def epoch(self, metrics: EpochMetrics) -> None:
        value = metrics.held_out.get(self._metric)
        if value is not None and not self.given_up:
            self.given_up = not self._trial.tell(metrics.epoch + 1, value)

    def end(self) -> None: ...

    def stop(self) -> bool:
        return self.given_up or self._trial.asked()


def read_learned(folder: Path) -> Learned:
    """What a trial came to. Raises `FileNotFoundError` where it did not end, or was not among the best."""
    said = json.loads((folder / _LEARNED).read_bytes())
    estimator = None if said["estimator"] is None else Estimator(**said["estimator"])
    weights = safetensors.load((folder / _WEIGHTS).read_bytes())
    return Learned(
        weights=weights, history=tuple(EpochMetrics(**epoch) for epoch in said["history"]), estimator=estimator
    )


def _write_learned(folder: Path, learned: Learned) -> None:
    write_atomically(folder / _WEIGHTS, safetensors.save(dict(learned.weights)))
    said = {
        "history": [asdict(metrics) for metrics in learned.history],
        "estimator": None if learned.estimator is None else asdict(learned.estimator),
    }
    write_atomically(folder / _LEARNED, json.dumps(said).encode())
