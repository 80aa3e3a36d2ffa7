"""Training: a run, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlplat.clock import Clock
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.jobs.lease import Lease
from mlplat.metadata.port import Metadata, ModelVersion
from mlplat.model.artifact import save
from mlplat.model.model import Model
from mlplat.train import samples
from mlplat.train.progress import EpochMetrics, Progress
from mlplat.train.recording import finite, patiently
from mlplat.train.run import Fitted, Interrupted, Run
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings

FINAL_OF = "final_of"
"""The tag of a run on all rows: the version that is judged for the one that comes of it."""
EVALUATED = "evaluated_"
"""Before the names of that model's metrics, among those of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A registered model and how it came about; `metrics` are those of the best epoch on the rows held out. Of a final one
    they, and the `history`, are those of the version `evaluated`, which did not learn from these rows."""

    model: Model
    version: ModelVersion
    metrics: Mapping[str, float]
    history: tuple[EpochMetrics, ...]
    seconds: float
    evaluated: ModelVersion | None = None


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
    final: bool = False,
    code: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    began: Callable[[str], None] = lambda run_id: None,
    lease: Lease | None = None,
    scratch: Path | None = None,
) -> TrainedModel | Interrupted:
    """Learn from a training set, save under `home/models/<name>/<digest>`, and register under the name of the training
    set. A run that was begun by the same call and did not end well goes on from its newest checkpoint.

    `final` trains again, on all rows, for as many epochs as were best, and registers that too: it is the version that comes
    back, and the promoter judges it by the one before. `code` is a folder under git whose commit is recorded. `stop` is
    asked several times a second. `began` is told the run's id as soon as there is one, `lease` are the slots for the workers,
    and `scratch` is a folder of each node's own disk.
    Raises `InvalidInput` for data or settings that cannot be learnt from, before anything is recorded or after the run is
    recorded as failed; `Conflict` if another process is doing the same.
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
        lease=lease,
        scratch=scratch,
    )
    with run.fitted(stop) as fitted:
        if isinstance(fitted, Interrupted):
            return fitted
        found = _registered(run, fitted)
        # Within the first run, so that the same call goes on with the second one where that was killed.
        return _refitted(run, fitted, found, stop) if final else found


def adopt(run: Run) -> TrainedModel:
    """What a run with something `learned` comes to."""
    with run.fitted(lambda: False) as fitted:
        assert isinstance(fitted, Fitted)
        return _registered(run, fitted)


def _refitted(run: Run, fitted: Fitted, found: TrainedModel, stop: Callable[[], bool]) -> TrainedModel | Interrupted:
    """Again, on all rows, for as many epochs as were best."""
    again = replace(
        run,
        purpose={FINAL_OF: str(found.version.version)},
        parent=fitted.run_id,
        epochs=fitted.best.epoch + 1,
        began=lambda run_id: None,
    )
    run.progress.note(f"again, on all {run.data.rows:,} rows")
    with again.fitted(stop) as refitted:
        if isinstance(refitted, Interrupted):
            return refitted
        evaluated = finite({f"{EVALUATED}{name}": value for name, value in found.metrics.items()})
        patiently(lambda: run.metadata.log_metrics(refitted.run_id, evaluated), run.clock, run.progress)
        last = _registered(again, refitted)
    return replace(
        last,
        metrics=found.metrics,
        evaluated=found.version,
        history=found.history,
        seconds=found.seconds + last.seconds,
    )


def _registered(run: Run, fitted: Fitted) -> TrainedModel:
    name, model = run.data.name, fitted.model
    path = save(
        model,
        run.home / "models" / name,
        golden=samples.golden(model, fitted.shown),
        reference=samples.reference(model, fitted.learnt, fitted.held_out),
        requests=samples.requests(model.signature, fitted.shown),
    )
    known = {"digest": model.digest, "path": str(path), "run_id": fitted.run_id}
    version = patiently(lambda: run.metadata.register(name, **known), run.clock, run.progress)
    return TrainedModel(
        model=model,
        version=version,
        metrics=dict(fitted.best.held_out),
        history=fitted.history,
        seconds=fitted.seconds,
    )
