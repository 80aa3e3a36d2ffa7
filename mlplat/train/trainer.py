"""The controller of a training run: checks the data, runs the loop here or on workers, keeps the artifact, records
everything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, NotFound, NotYetAvailable
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.port import Metadata, ModelVersion
from mlplat.model.architecture import Architecture
from mlplat.model.artifact import Golden, save
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model
from mlplat.model.task import Task
from mlplat.train.lineage import lineage
from mlplat.train.progress import EpochMetrics, Progress
from mlplat.train.rows import Split, check_split, cut_before_end, split, task_of, times_of
from mlplat.train.runs import RunFolder, claimed
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.work import Learned, Source, Work, Yielded

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """A run that was asked to stop, after `step` steps. The same call goes on from there."""

    run_id: str
    step: int


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
    began_s = clock.elapsed_s()
    if not isinstance(science.network, Architecture):
        raise NotYetAvailable(
            "a network of your own can be trained, and not kept yet: give an architecture, as mlp((128, 64))"
        )
    facts = _checked(data, settings)
    said = {**settings.to_json(), **science.spelled(), "compute": str(demand)}
    identity = {
        **science.spelled(),
        **settings.science(),
        "compute": str(demand),
        "name": data.name,
        "of": data.snapshot,
    }
    with claimed(home / "runs", identity) as folder:
        tags = {**lineage(data, folder=code or Path.cwd()), CUT_TAG: str(facts.parts.cut_us), "compute": str(demand)}
        run_id = _begun(folder, metadata, data.name, said, tags)
        began(run_id)
        work = _work(data, facts, science, settings, folder.path, home / "cache" / "rows", demand.threads)
        with _recorded(metadata, run_id, folder):
            recording = _Recording(progress, metadata, run_id, folder)
            learned = _run(work, demand, clock, recording, stop)
            if isinstance(learned, Yielded):
                metadata.end_run(run_id, status="SCHEDULED")
                return Interrupted(run_id=run_id, step=learned.step)
            recording.missed(learned.history)
            model = Model(
                network=science.network,
                weights=learned.weights,
                encoding=facts.encoding,
                signature=data.signature(facts.task.fields()),
                task=facts.task,
            )
            path = save(model, home / "models" / data.name, golden=_golden(model, facts))
            best = next(m for m in reversed(learned.history) if m.best)
            seconds = clock.elapsed_s() - began_s
            metrics = {f"best_{name}": value for name, value in {"epoch": best.epoch, **best.held_out}.items()}
            metadata.log_metrics(run_id, _finite({**metrics, "seconds": seconds}), step=best.epoch)
            version = metadata.register(data.name, digest=model.digest, path=str(path), run_id=run_id)
            metadata.end_run(run_id, status="FINISHED")
        folder.forget()
    return TrainedModel(
        model=model, version=version, metrics=dict(best.held_out), history=learned.history, seconds=seconds
    )


class _Recording:
    """Progress that also writes each epoch to the metadata store, once whatever process is killed in between."""

    def __init__(self, progress: Progress, metadata: Metadata, run_id: str, folder: RunFolder) -> None:
        self._progress, self._metadata, self._run_id, self._folder = progress, metadata, run_id, folder
        self.note, self.begin, self.step, self.end = progress.note, progress.begin, progress.step, progress.end

    def epoch(self, metrics: EpochMetrics) -> None:
        values = {"train_loss": metrics.train_loss, **metrics.held_out}
        self._metadata.log_metrics(self._run_id, _finite(values), step=metrics.epoch)
        self._folder.recorded(metrics.epoch)
        self._progress.epoch(metrics)

    def missed(self, history: Sequence[EpochMetrics]) -> None:
        """Epochs that workers did when their driver was dead."""
        known = self._folder.epochs()
        for metrics in history:
            if metrics.epoch not in known:
                self.epoch(metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is known of the data before anything is recorded."""

    table: pa.Table
    task: Task
    parts: Split
    encoding: InputEncoding


def _checked(data: TrainingSet, settings: TrainSettings) -> _Facts:
    table = data.table()
    task = task_of(table, data.label, settings.task)
    times = times_of(table, data.time)
    parts = split(times, cut_before_end(times, settings.holdout_s))
    check_split(parts, table, data.label)
    fields = data.signature(task.fields()).inputs()
    if not fields:
        raise InvalidInput(f"training set {data.name!r} has no request fields and no features: nothing to learn from")
    names = [field.name for field in fields if field.name in table.column_names]
    encoding = InputEncoding.fit(table.select(names).take(pa.array(parts.learn)), fields)
    return _Facts(table=table, task=task, parts=parts, encoding=encoding)


def _begun(
    folder: RunFolder, metadata: Metadata, name: str, params: Mapping[str, object], tags: Mapping[str, str]
) -> str:
    """The run's id: of the run that goes on, or of a new one."""
    known = folder.run_id
    if known is not None:
        with suppress(NotFound):  # the store is another one: only the record begins anew
            metadata.continue_run(known)
            return known
    run_id = metadata.start_run(name, params=params, tags=tags)
    folder.begin(run_id)
    return run_id


def _work(
    data: TrainingSet,
    facts: _Facts,
    science: Science,
    settings: TrainSettings,
    folder: Path,
    cache: Path,
    threads: int,
) -> Work:
    source = Source(
        path=data.path.resolve(),
        snapshot=data.snapshot,
        label=data.label,
        time=data.time,
        cut_us=facts.parts.cut_us,
        task=facts.task,
        encoding=facts.encoding,
    )
    return Work(
        source=source,
        science=science,
        settings=settings,
        folder=folder.resolve(),
        cache=cache.resolve(),
        threads=threads,
    )


def _run(work: Work, demand: Demand, clock: Clock, progress: Progress, stop: Callable[[], bool]) -> Learned | Yielded:
    try:
        if demand.in_process:
            from mlplat.train.gang import Alone
            from mlplat.train.session import learn

            return learn(work, Alone(), progress, clock, stop)
        from mlplat.train._ray import learn_on_workers

        return learn_on_workers(work, demand, progress, stop)
    finally:
        progress.end()


@contextmanager
def _recorded(metadata: Metadata, run_id: str, folder: RunFolder) -> Iterator[None]:
    """The end of a run that does not end well, whichever it is. What can never end well is not gone on with."""
    try:
        yield
    except Exception as error:
        metadata.end_run(run_id, status="FAILED")
        if isinstance(error, InvalidInput):
            folder.forget()
        raise
    except BaseException:
        metadata.end_run(run_id, status="KILLED")
        raise


def _golden(model: Model, facts: _Facts) -> Golden:
    rows = facts.table.take(pa.array(facts.parts.held_out[:GOLDEN_ROWS]))
    return Golden.of(model, {field.name: rows.column(field.name).to_pylist() for field in model.signature.inputs()})


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without those that are undefined, such as the AUC of one class."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
