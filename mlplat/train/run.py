"""One run of training, from the check of the data to the model: found again by what it is, recorded, and gone on with.
`trainer` keeps what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, NotFound, Unavailable
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.jobs.lease import Lease
from mlplat.metadata.port import EndStatus, Metadata
from mlplat.model.architecture import Architecture
from mlplat.model.estimator import Estimator, initialisation_of
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model, Network
from mlplat.model.task import Task
from mlplat.train import lineage
from mlplat.train.progress import EpochMetrics, Progress
from mlplat.train.recording import Recording, finite, patiently
from mlplat.train.rows import NEVER_US, Split, check_split, cut_before_end, split, task_of, times_of
from mlplat.train.runs import RunFolder, claimed
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.work import Learned, Source, Work, Yielded

Array = np.ndarray[Any, Any]

CUT_TAG = "holdout_start_us"
PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own, by which it shows runs below others."""


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
    learnt: pa.Table
    held_out: pa.Table
    history: tuple[EpochMetrics, ...]
    seconds: float

    @property
    def best(self) -> EpochMetrics:
        return next(metrics for metrics in reversed(self.history) if metrics.best)

    @property
    def shown(self) -> pa.Table:
        """Rows to show what the model does: held out, where some are."""
        return self.held_out if self.held_out.num_rows else self.learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A call, and what it needs. `purpose` tells runs apart that do the same for another reason, and is recorded, as is the
    run `parent`; `began` is told the run's id. `epochs`: so many, on all rows, of which none is held out. `learned`: what it came
    to already, elsewhere. `scratch` is a folder of each node's own disk (default: the home's `cache`)."""

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
    parent: str | None = None
    epochs: int | None = None
    began: Callable[[str], None] = lambda run_id: None
    lease: Lease | None = None
    learned: Learned | None = None
    scratch: Path | None = None

    def work(self, folder: Path) -> Work:
        """What workers get, and nothing is recorded. Raises `InvalidInput` for data that cannot be learnt from."""
        return self._work(self._facts(), folder)

    @contextmanager
    def fitted(self, stop: Callable[[], bool]) -> Iterator[Fitted | Interrupted]:
        """The run, from where it was. It has ended well once the block has: until then the same call goes on with it."""
        began_s = self.clock.elapsed_s()
        facts = self._facts()
        self._check_science(facts.encoding, facts.task)
        with claimed(self.home / "runs", self._identity()) as folder:
            run_id = self._begun(folder, facts)
            self.began(run_id)
            with _recorded(self.metadata, run_id, folder):
                told = Recording(self.progress, self.metadata, run_id, folder)
                learned = self.learned or _run(self._work(facts, folder.path), self, told, stop)
                if self.learned is not None:
                    for metrics in self.learned.history:
                        told.epoch(metrics)
                self._patiently(told.flush)
                if isinstance(learned, Yielded):
                    self._end(run_id, "SCHEDULED")
                    yield Interrupted(run_id=run_id, step=learned.step)
                    return
                model = _model(self.data, self.science, facts, learned)
                fitted = Fitted(
                    run_id=run_id,
                    model=model,
                    learnt=facts.rows(facts.parts.learn),
                    held_out=facts.rows(facts.parts.held_out),
                    history=learned.history,
                    seconds=self.clock.elapsed_s() - began_s,
                )
                self._patiently(lambda: self._log_best(fitted))
                yield fitted
                self._end(run_id, "FINISHED")
            folder.forget()

    def _facts(self) -> _Facts:
        data = self.data
        table = data.table()
        task = task_of(table, data.label, self.settings.task)
        times = times_of(table, data.time)
        if self.epochs is None:
            parts = split(times, cut_before_end(times, self.settings.holdout_s))
            check_split(parts, table, data.label)
        else:
            parts = split(times, NEVER_US)
        fields = data.signature(task.fields()).inputs()
        if not fields:
            raise InvalidInput(
                f"training set {data.name!r} has no request fields and no features: nothing to learn from"
            )
        names = [field.name for field in fields if field.name in table.column_names]
        encoding = InputEncoding.fit(table.select(names).take(pa.array(parts.learn)), fields)
        return _Facts(table=table, task=task, parts=parts, encoding=encoding)

    def _check_science(self, encoding: InputEncoding, task: Task) -> None:
        """Hours later would be late to find out that it cannot be kept."""
        estimator = self.science.estimator
        if estimator is None and not isinstance(self.science.network, Architecture):
            from mlplat.train.keep import kept

            kept(self.science, encoding, outputs=task.outputs)
        if estimator is not None:
            Estimator.of(estimator)
            initialisation_of(estimator)
            if self.demand.count > 1:
                raise InvalidInput(
                    f"compute={self.demand}: {type(estimator).__name__} fits on one worker. Give that several processors, as in "
                    'compute={"workers": 1, "CPU": 4}'
                )

    def _patiently(self, call: Callable[[], None]) -> None:
        patiently(call, self.clock, self.progress)

    def _end(self, run_id: str, status: EndStatus) -> None:
        self._patiently(lambda: self.metadata.end_run(run_id, status=status))

    def _identity(self) -> dict[str, object]:
        about = {"compute": self.demand.to_json(), "name": self.data.name, "snapshot": self.data.snapshot}
        refit = {} if self.epochs is None else {"epochs of all rows": self.epochs}
        return {**self.science.spelled(), **self.settings.science(), **about, **self.purpose, **refit}

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
                **({CUT_TAG: str(facts.parts.cut_us)} if self.epochs is None else {}),
                **({PARENT_TAG: self.parent} if self.parent else {}),
                **compute,
                **self.purpose,
            },
        )
        texts = lineage.texts(self.science, self.settings, self.demand, epochs=self.epochs, folder=self.code)
        self.metadata.put_texts(run_id, texts)
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
            cache=(self.scratch or self.home / "cache").resolve() / "rows",
            threads=self.demand.threads,
            epochs=self.epochs,
        )

    def _log_best(self, fitted: Fitted) -> None:
        best = {"epoch": fitted.best.epoch, **fitted.best.held_out} if self.epochs is None else {}
        metrics = {f"best_{name}": value for name, value in best.items()} | {"seconds": fitted.seconds}
        self.metadata.log_metrics(fitted.run_id, finite(metrics), step=fitted.best.epoch)


def _model(data: TrainingSet, science: Science, facts: _Facts, learned: Learned) -> Model:
    signature = data.signature(facts.task.fields())
    network: Network
    if learned.estimator is not None:
        network = learned.estimator
        signature = replace(signature, initialisation=initialisation_of(science.estimator))
    else:
        from mlplat.train.keep import kept

        network = kept(science, facts.encoding, outputs=facts.task.outputs, weights=learned.weights)
    return Model(
        network=network, weights=learned.weights, encoding=facts.encoding, signature=signature, task=facts.task
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is known of the data before anything is recorded."""

    table: pa.Table
    task: Task
    parts: Split
    encoding: InputEncoding

    def rows(self, places: Array) -> pa.Table:
        return self.table.take(pa.array(places))


def _run(work: Work, run: Run, progress: Progress, stop: Callable[[], bool]) -> Learned | Yielded:
    demand, clock = run.demand, run.clock
    try:
        if demand.in_process and work.science.estimator is not None:
            from mlplat.train.fit import fit

            return fit(work, progress, clock, stop)
        if demand.in_process:
            from mlplat.train.gang import Alone
            from mlplat.train.session import learn

            return learn(work, Alone(), progress, clock, stop)
        from mlplat.train._ray import learn_on_workers

        return learn_on_workers(work, demand, progress, stop, run.lease)
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
