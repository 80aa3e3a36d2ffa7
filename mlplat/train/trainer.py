"""Training: a run, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlplat.clock import Clock
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.port import Metadata, ModelVersion
from mlplat.model.artifact import save
from mlplat.model.model import Model
from mlplat.train.progress import EpochMetrics, Progress
from mlplat.train.recording import patiently
from mlplat.train.run import Interrupted, Run
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A registered model and how it came about; `metrics` are those of the best epoch on the rows held out."""

    model: Model
    version: ModelVersion
    metrics: Mapping[str, float]
    history: tuple[EpochMetrics, ...]
    seconds: float


def train(
    data: TrainingSet,
    science: Science,
    settings: TrainSettings,
    *,
    demand: Demand,
    metadata: Metadata,
    home: Path,
    clock: Clock,
    progress: Progress,
    code: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    began: Callable[[str], None] = lambda run_id: None,
) -> TrainedModel | Interrupted:
    """Learn from a training set, save under `home/models/<name>/<digest>`, and register under the name of the training
    set. A run that was begun by the same call and did not end well goes on from its newest checkpoint.

    `code` is a folder under git whose commit is recorded. `stop` is asked several times a second. `began` is told the
    run's id as soon as there is one. Raises `InvalidInput` for data or settings that cannot be learnt from, before anything is
    recorded or after the run is recorded as failed; `Conflict` if another process is doing the same.
    """
    run = Run(
        data=data,
        science=science,
        settings=settings,
        demand=demand,
        metadata=metadata,
        home=home,
        clock=clock,
        progress=progress,
        code=code or Path.cwd(),
        began=began,
    )
    with run.fitted(stop) as fitted:
        if isinstance(fitted, Interrupted):
            return fitted
        path = save(fitted.model, home / "models" / data.name, golden=fitted.golden)
        known = {"digest": fitted.model.digest, "path": str(path), "run_id": fitted.run_id}
        version = patiently(lambda: metadata.register(data.name, **known), clock, progress)
    return TrainedModel(
        model=fitted.model,
        version=version,
        metrics=dict(fitted.best.held_out),
        history=fitted.history,
        seconds=fitted.seconds,
    )
