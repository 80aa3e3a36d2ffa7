"""The controller of a training run: checks the data, runs the loop here or on workers, keeps the artifact, records
everything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mlplat.clock import Clock
from mlplat.errors import InvalidInput
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.port import Metadata, ModelVersion
from mlplat.model.architecture import Architecture
from mlplat.model.artifact import Golden, save
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import OUTPUTS, Model
from mlplat.train.lineage import lineage
from mlplat.train.progress import EpochMetrics, Progress
from mlplat.train.rows import Split, check_split, cut_before_end, labels_of, split, times_of
from mlplat.train.settings import TrainSettings

if TYPE_CHECKING:
    from mlplat.train.loop import Learned
    from mlplat.train.shards import Work

GOLDEN_ROWS = 8
CUT_TAG = "holdout_start_us"


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
    architecture: Architecture,
    settings: TrainSettings,
    *,
    demand: Demand,
    metadata: Metadata,
    home: Path,
    clock: Clock,
    progress: Progress,
    code: Path | None = None,
) -> TrainedModel:
    """Learn from a training set, save under `home/models/<name>/<digest>`, and register under the name of the training
    set.

    `code` is a folder under git whose commit is recorded. Raises `InvalidInput` for data or settings that cannot be
    learnt from, before anything is recorded or after the run is recorded as failed.
    """
    began_s = clock.elapsed_s()
    table, parts = _checked(data, settings)
    encoding = _fit(data, table, parts)
    tags = {**lineage(data, folder=code or Path.cwd()), CUT_TAG: str(parts.cut_us), "compute": str(demand)}
    params = {**settings.to_json(), "architecture": architecture.to_json(), "compute": str(demand)}
    run_id = metadata.start_run(data.name, params=params, tags=tags)
    with _recorded(metadata, run_id):
        work = _work(data, parts, architecture, encoding, settings)
        learned = _run(work, demand, home / "runs" / run_id, clock, _Recording(progress, metadata, run_id))
        signature = data.signature(OUTPUTS)
        model = Model(architecture=architecture, weights=learned.weights, encoding=encoding, signature=signature)
        path = save(model, home / "models" / data.name, golden=_golden(model, table, parts))
        best = next(m for m in reversed(learned.history) if m.best)
        metrics = _finite({"best_epoch": best.epoch, "best_log_loss": best.log_loss, "best_auc": best.auc})
        seconds = clock.elapsed_s() - began_s
        metadata.log_metrics(run_id, {**metrics, "seconds": seconds}, step=best.epoch)
        version = metadata.register(data.name, digest=model.digest, path=str(path), run_id=run_id)
    found = {"log_loss": best.log_loss, "auc": best.auc}
    return TrainedModel(model=model, version=version, metrics=found, history=learned.history, seconds=seconds)


class _Recording:
    """Progress that also writes each epoch to the metadata store."""

    def __init__(self, progress: Progress, metadata: Metadata, run_id: str) -> None:
        self._progress, self._metadata, self._run_id = progress, metadata, run_id
        self.note, self.begin, self.step, self.end = progress.note, progress.begin, progress.step, progress.end

    def epoch(self, metrics: EpochMetrics) -> None:
        self._progress.epoch(metrics)
        values = {"train_loss": metrics.train_loss, "log_loss": metrics.log_loss, "auc": metrics.auc}
        self._metadata.log_metrics(self._run_id, _finite(values), step=metrics.epoch)


def _checked(data: TrainingSet, settings: TrainSettings) -> tuple[pa.Table, Split]:
    table = data.table()
    labels = labels_of(table, data.label)
    times = times_of(table, data.time)
    parts = split(times, cut_before_end(times, settings.holdout_s))
    check_split(parts, labels, data.label)
    return table, parts


def _fit(data: TrainingSet, table: pa.Table, parts: Split) -> InputEncoding:
    fields = data.signature(OUTPUTS).inputs()
    if not fields:
        raise InvalidInput(f"training set {data.name!r} has no request fields and no features: nothing to learn from")
    names = [field.name for field in fields if field.name in table.column_names]
    return InputEncoding.fit(table.select(names).take(pa.array(parts.learn)), fields)


def _work(
    data: TrainingSet, parts: Split, architecture: Architecture, encoding: InputEncoding, settings: TrainSettings
) -> Work:
    from mlplat.train.shards import Work

    return Work(
        path=data.path.resolve(),
        label=data.label,
        time=data.time,
        cut_us=parts.cut_us,
        architecture=architecture,
        encoding=encoding,
        settings=settings,
    )


def _run(work: Work, demand: Demand, folder: Path, clock: Clock, progress: Progress) -> Learned:
    try:
        if demand.in_process:
            from mlplat.train.gang import Alone
            from mlplat.train.loop import learn

            return learn(work, Alone(), progress, clock)
        from mlplat.train._ray import learn_on_workers

        return learn_on_workers(work, demand, folder, progress)
    finally:
        progress.end()


@contextmanager
def _recorded(metadata: Metadata, run_id: str) -> Iterator[None]:
    """The run's end, whichever it is."""
    try:
        yield
    except Exception:
        metadata.end_run(run_id, status="FAILED")
        raise
    except BaseException:
        metadata.end_run(run_id, status="KILLED")
        raise
    metadata.end_run(run_id, status="FINISHED")


def _golden(model: Model, table: pa.Table, parts: Split) -> Golden:
    rows = table.take(pa.array(parts.held_out[:GOLDEN_ROWS]))
    return Golden.of(model, {field.name: rows.column(field.name).to_pylist() for field in model.signature.inputs()})


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without those that are undefined, such as the AUC of one class."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
