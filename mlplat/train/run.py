"""One run of training, from the check of the data to the model: found again by what it is, recorded, and gone on with.
`trainer` keeps what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, NotFound, Unavailable
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.port import EndStatus, Metadata
from mlplat.model.architecture import Architecture
from mlplat.model.artifact import Golden
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model
from mlplat.model.task import Task
from mlplat.train import lineage
from mlplat.train.progress import EpochMetrics, Progress
from mlplat.train.recording import Recording, finite, patiently
from mlplat.train.rows import Split, check_split, cut_before_end, split, task_of, times_of
from mlplat.train.runs import RunFolder, claimed
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.work import Learned, Source, Work, Yielded

GOLDEN_ROWS = 8
CUT_TAG = "holdout_start_us"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """A run that was asked to stop, after `step` steps. The same call goes on from there."""

    run_id: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a run came to."""

    run_id: str
    model: Model
    golden: Golden
    history: tuple[EpochMetrics, ...]
    seconds: float

    @property
    def best(self) -> EpochMetrics:
        return next(metrics for metrics in reversed(self.history) if metrics.best)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A call, and what it needs. `purpose` tells runs apart that do the same for another reason, and is recorded; `began` is
    told the run's id."""

    data: TrainingSet
    science: Science
    settings: TrainSettings
    demand: Demand
    metadata: Metadata
    home: Path
    clock: Clock
    progress: Progress
    code: Path
    purpose: Mapping[str, str] = field(default_factory=dict)
    began: Callable[[str], None] = lambda run_id: None

    @contextmanager
    def fitted(self, stop: Callable[[], bool]) -> Iterator[Fitted | Interrupted]:
        """The run, from where it was. It has ended well once the block has: until then the same call goes on with it."""
        began_s = self.clock.elapsed_s()
        facts = _checked(self.data, self.science, self.settings)
        with claimed(self.home / "runs", self._identity()) as folder:
            run_id = self._begun(folder, facts)
            self.began(run_id)
            with _recorded(self.metadata, run_id, folder):
                told = Recording(self.progress, self.metadata, run_id, folder)
                learned = _run(self._work(facts, folder.path), self.demand, self.clock, told, stop)
                self._patiently(told.flush)
                if isinstance(learned, Yielded):
                    self._end(run_id, "SCHEDULED")
                    yield Interrupted(run_id=run_id, step=learned.step)
                    return
                model = _model(self.data, self.science, facts, learned)
                fitted = Fitted(
                    run_id=run_id,
                    model=model,
                    golden=_golden(model, facts),
                    history=learned.history,
                    seconds=self.clock.elapsed_s() - began_s,
                )
                self._patiently(lambda: self._log_best(fitted))
                yield fitted
                self._end(run_id, "FINISHED")
            folder.forget()

    def _patiently(self, call: Callable[[], None]) -> None:
        patiently(call, self.clock, self.progress)

    def _end(self, run_id: str, status: EndStatus) -> None:
        self._patiently(lambda: self.metadata.end_run(run_id, status=status))

    def _identity(self) -> dict[str, object]:
        about = {"compute": self.demand.to_json(), "name": self.data.name, "snapshot": self.data.snapshot}
        return {**self.science.spelled(), **self.settings.science(), **about, **self.purpose}

    def _begun(self, folder: RunFolder, facts: _Facts) -> str:
        """The run's id: of the run that goes on, or of a new one."""
        known = folder.run_id
        if known is not None:
            with suppress(NotFound):  # the store is another one: only the record begins anew
                self.metadata.continue_run(known)
                return known
        compute = {"compute": str(self.demand)}
        run_id = self.metadata.start_run(
            self.data.name,
            params={**self.settings.to_json(), **self.science.spelled(), **compute},
            tags={
                **lineage.tags(self.data, folder=self.code),
                CUT_TAG: str(facts.parts.cut_us),
                **compute,
                **self.purpose,
            },
        )
        self.metadata.put_texts(run_id, lineage.texts(self.science, self.settings, self.demand, folder=self.code))
        folder.begin(run_id)
        return run_id

    def _work(self, facts: _Facts, folder: Path) -> Work:
        source = Source(
            path=self.data.path.resolve(),
            snapshot=self.data.snapshot,
            label=self.data.label,
            time=self.data.time,
            cut_us=facts.parts.cut_us,
            task=facts.task,
            encoding=facts.encoding,
        )
        return Work(
            source=source,
            science=self.science,
            settings=self.settings,
            folder=folder.resolve(),
            cache=(self.home / "cache" / "rows").resolve(),
            threads=self.demand.threads,
        )

    def _log_best(self, fitted: Fitted) -> None:
        best = {"epoch": fitted.best.epoch, **fitted.best.held_out}
        metrics = {f"best_{name}": value for name, value in best.items()} | {"seconds": fitted.seconds}
        self.metadata.log_metrics(fitted.run_id, finite(metrics), step=fitted.best.epoch)


def _model(data: TrainingSet, science: Science, facts: _Facts, learned: Learned) -> Model:
    from mlplat.train.keep import kept

    return Model(
        network=kept(science, facts.encoding, outputs=facts.task.outputs, weights=learned.weights),
        weights=learned.weights,
        encoding=facts.encoding,
        signature=data.signature(facts.task.fields()),
        task=facts.task,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is known of the data before anything is recorded."""

    table: pa.Table
    task: Task
    parts: Split
    encoding: InputEncoding


def _checked(data: TrainingSet, science: Science, settings: TrainSettings) -> _Facts:
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
    if not isinstance(science.network, Architecture):
        from mlplat.train.keep import kept

        kept(science, encoding, outputs=task.outputs)  # hours later would be late to find out that it cannot be
    return _Facts(table=table, task=task, parts=parts, encoding=encoding)


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
    except BaseException as error:
        if isinstance(error, InvalidInput):
            folder.forget()
        with suppress(Unavailable):  # what went wrong is more than that it could not be written down
            metadata.end_run(run_id, status="FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _golden(model: Model, facts: _Facts) -> Golden:
    rows = facts.table.take(pa.array(facts.parts.held_out[:GOLDEN_ROWS]))
    return Golden.of(model, {field.name: rows.column(field.name).to_pylist() for field in model.signature.inputs()})
