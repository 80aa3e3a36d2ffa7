"""The feature store as users meet it: `platform.features`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import psutil

from mlplat.clock import US_PER_S, Clock
from mlplat.errors import InvalidInput
from mlplat.features import labels as labelled
from mlplat.features.backfill import Watch
from mlplat.features.block import Retrieved
from mlplat.features.catalogue import Catalogue, Models
from mlplat.features.datasets import DataSets
from mlplat.features.definitions import AnyView, Derived, Source, View
from mlplat.features.derived_views import DerivedViews
from mlplat.features.describe import Describer
from mlplat.features.describe import training_set as describe_training_set
from mlplat.features.description import Description
from mlplat.features.flusher import Flusher
from mlplat.features.ingestion import Ingested, Ingestion, NewColumns, OnBad
from mlplat.features.operations import Operation, Operations
from mlplat.features.overview import Overview, name_of
from mlplat.features.pinned import Pins
from mlplat.features.plans import AnyPlan
from mlplat.features.pool import Pool
from mlplat.features.producers import ProducerChange, Producers, consider
from mlplat.features.reader import OnlineFeatures, entities_of, open_reader, open_store
from mlplat.features.registry import Registry, ViewVersion
from mlplat.features.retrieval import Known, Machine, Retrieval, aware_us
from mlplat.features.statistics import Statistics
from mlplat.features.stream import Decode, Follower, Following, StreamConsumer
from mlplat.features.training_set import TrainingSet
from mlplat.features.view_rows import ViewRows
from mlplat.model.signature import FeatureRef

__all__ = ["FeatureStore", "open_reader"]


class FeatureStore(Overview):
    """Sources, views, and both ways to read them. Thread-safe; several processes of one machine may open one home."""

    def __init__(
        self, home: Path, *, clock: Clock, pool: Pool, models: Models = tuple, online: str | None = None
    ) -> None:
        """`pool` makes rows on an actor pool; `models` lists the registered models, for the catalogue; `online` is the URL
        of the online store's server."""
        self._home = home
        self._clock = clock
        self._registry = Registry(home / "features")
        self._store = open_store(home, online)
        self._rows = ViewRows(home, pool, clock)
        self._ingestion = Ingestion(home, self._registry, self._store, self._rows)
        self._datasets = DataSets(self._registry, self._rows, self._ingestion)
        self._operations = Operations(home, clock, self._fill)
        self._pool = pool
        self._retrieval = Retrieval(
            home=home,
            registry=self._registry,
            rows=self._rows,
            derived=DerivedViews(self._registry),
            pool=pool,
            machine=Machine(free_bytes=lambda: psutil.virtual_memory().available, cores=psutil.cpu_count() or 1),
        )
        self._catalogue = Catalogue(self._registry, home / "training_sets", models)
        self._reader = OnlineFeatures(self._store, self._registry)
        self._producers = Producers(home / "features")
        self._describer = Describer(
            Statistics(home), self._rows, lambda rows, view, at: self.join(rows, [view], time=at)
        )
        self._flusher = Flusher(self._ingestion.flush)
        self._plans: dict[tuple[str, object], AnyPlan] = {}
        self._ingestion.refresh()

    def apply(self, *views: AnyView) -> list[ViewVersion]:
        """Make these definitions the current versions, and bring the online store up to date with them.

        The same definition again changes nothing. A transform is checked for parity on the data that is there, or on
        the first that comes. Raises `ParityError`, `UserCodeError`, or `InvalidInput` for a column that the source
        has not.
        """
        for view in views:
            if not isinstance(view, View | Derived):
                raise InvalidInput(
                    f"apply takes views, and got {type(view).__name__}; declare one with @F.view(source)"
                )
        for view in views:
            if isinstance(view, Derived):
                self._apply_derived(view)
            else:
                self.backfill(view, wait=True)
        return [self._registry.history(view.name)[-1] for view in views]

    def backfill(self, view: View, *, wait: bool = False) -> Operation:
        """What `apply` does with one view, in the background: make its rows, bring them online, and make it the current
        version when it is whole. The handle says how far it is, in any process: `operation(op.id)`.

        Where a process is at it already, that is the operation; what was interrupted or cancelled goes on where it
        stopped. Closing the platform interrupts it. With `wait` it is over when this returns, and its errors are raised.
        """
        if not isinstance(view, View):
            raise InvalidInput(f"backfill takes a view with rows of its own, and got {type(view).__name__}")
        self._registry.put_source(view.source)
        self._rows.use(view)
        return self._operations.begin(view, wait=wait)

    def _fill(self, view: View, watch: Watch) -> None:
        self._ingestion.flush()
        self._ingestion.catch_up_view(view, watch)
        if self._registry.put_view(view, now_us=self._clock.now_us()):
            # What was pushed before the pushing process could see the view.
            self._ingestion.flush()
            self._ingestion.catch_up_view(view, watch)

    def _apply_derived(self, view: Derived) -> None:
        self._retrieval.check_derived(view)
        self._registry.put_view(view, now_us=self._clock.now_us())

    def retire(self, view: AnyView | str, version: str | None = None) -> None:
        """Stop keeping a version fresh (default: the current one), and delete its features. The history keeps it.

        Refused, with the list of its users, while a model, a training set or a derived view is made of it.
        """
        found = self._resolve(view) if version is None else self._registry.view(name_of(view), version)
        self._catalogue.refuse_if_used(found.name, found.version)
        self._registry.retire(found.name, found.version, now_us=self._clock.now_us())
        if isinstance(found, View):
            self._plans.clear()
            self._store.delete(found.name, found.version)
            self._describer.forget(found)
            self._rows.forget(found)

    def ingest(
        self,
        source: Source,
        data: Any,
        *,
        batch_id: str | None = None,
        new_columns: NewColumns = "refuse",
        on_bad: OnBad = "refuse",
        producer: str | None = None,
    ) -> Ingested:
        """Add a batch of events: a polars, pandas or Arrow table, an Arrow reader or dataset, a Ray Dataset, rows as dicts,
        or the path or URL (`s3://bucket/folder/`) of Parquet or CSV: a file, a folder, perhaps with partitions, or a
        pattern.

        The whole batch lands or none of it, however large it is; events that are there already are not added again, nor
        is a batch whose `batch_id` was there. With `new_columns="add"` columns that the table has not are added to it,
        null for older rows. With `on_bad="quarantine"` the good rows land, and the bad ones are set aside with the
        reasons: see `quarantined`. `producer` says who made the batch: the first one named feeds the source until
        `replace_producer`, and a batch of another is `Refused`. Raises `BatchRefused`.
        """
        if producer is not None:
            self._producers.check_producer(source.name, producer)
        done = self._ingestion.ingest(source, data, batch_id=batch_id, new_columns=new_columns, on_bad=on_bad)
        if producer is not None:
            self._producers.begin(source.name, producer, now_us=self._clock.now_us())
        return done

    def push(self, source: Source, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Add one event or a few as they happen. When it returns they are durable, and readable online.

        They reach the table within 5 s, or at the next offline read. Raises `BatchRefused`.
        """
        self._flusher.start()
        self._ingestion.push(source, [rows] if isinstance(rows, Mapping) else rows)

    def flush(self) -> None:
        """Bring pushed events into the tables now."""
        self._ingestion.flush()

    def join(
        self,
        frame: Any,
        views: Sequence[AnyView | FeatureRef | str],
        *,
        time: str,
        known: Known = "then",
        memory: str | None = None,
        keep_expired: bool = False,
    ) -> pl.DataFrame:
        """The rows of `frame`, in their order, with `view.feature` columns as of `time` (with a time zone).

        A view may be given by its pinned version, as a model has it, or by name for the current one. Where a source says
        when a row became known, a row of the frame sees what was known "then", at its own time; with `known="now"` all
        that is known now, or with a moment what was known at it.

        A view whose rows do not fit in `memory`, such as "512MiB" (default: half of what the machine has free), is joined
        in buckets of entities on disk, by as many processes as the machine has cores; the answer is the same.

        `keep_expired` gives what is older than its view's time-to-live as it was, not null: as an endpoint that keeps it.
        """
        self._ingestion.flush()
        rows = labelled.with_time(labelled.to_polars(frame), time)
        return self._retrieval.join(
            rows, [self._resolve(v) for v in views], time=time, known=known, memory=memory, keep_expired=keep_expired
        )

    def pin(self, views: Sequence[AnyView | FeatureRef | str]) -> Pins:
        """These views over the tables as they are now, for `PinnedJoin`s of any process: what comes later, they do not see."""
        self._ingestion.flush()
        return self._retrieval.pin([self._resolve(view) for view in views])

    def training_set(
        self,
        name: str,
        labels: Any,
        views: Sequence[AnyView | str],
        *,
        label: str,
        time: str,
        request: Sequence[str] | None = None,
        known: Known = "then",
        memory: str | None = None,
        sample: float | None = None,
        seed: int = 0,
    ) -> TrainingSet:
        """Labels with the features known at each label's time, stored under the home and pinned to exact versions.

        `request` names the columns that a caller of the model will send as inputs; the default is every column that
        is no key, label or time. A key, or a field that only a derived view takes, is an input only if it is named here.
        `known` and `memory` are as in `join`. `sample` takes that share of the labels, the same ones for one `seed`.
        """
        self._ingestion.flush()
        return self._retrieval.training_set(
            name,
            labelled.with_time(labelled.to_polars(labels), time),
            [self._resolve(view) for view in views],
            label=label,
            time=time,
            request=request,
            known=known,
            memory=memory,
            sample=sample,
            seed=seed,
        )

    def training_sets(self) -> list[TrainingSet]:
        """Those that are stored here, by name."""
        return [TrainingSet.load(self._home, name, snapshot) for name, snapshot in self._catalogue.training_sets()]

    def delete_training_set(self, data: TrainingSet) -> None:
        """Delete it, so that the versions it pins can be retired. Refused while a model is made of it."""
        TrainingSet.load(self._home, data.name, data.snapshot)
        self.refuse_if_trained(data)
        data.delete()

    def refuse_if_trained(self, data: TrainingSet) -> None:
        """`Refused` while a model is made of it."""
        self._catalogue.refuse_if_trained(data.name, data.snapshot)

    def online(
        self,
        views: AnyView | FeatureRef | str | Sequence[AnyView | FeatureRef | str],
        keys: Mapping[str, Sequence[Any]],
        *,
        at: datetime | None = None,
    ) -> Retrieved:
        """Features of many entities now, or at `at` (with a time zone): of a view by its own names, of a list of views as
        `view.feature`. What was known, and no older than the view's time-to-live; `status` says what is not there."""
        asked = [views] if isinstance(views, str | View | Derived | FeatureRef) else views
        plans = [self._plan(view) for view in asked]
        entities = entities_of([plan.layout.ref for plan in plans], keys)
        at_us = self._clock.now_us() if at is None else aware_us(at)
        return self._reader.retrieve(plans, entities, at_us, qualified=asked is views)

    def newest(self, source: Source) -> datetime | None:
        """The newest event time of a source; None while it has no events."""
        self._ingestion.flush()
        rows = self._rows.source_table(source).read([source.time])
        newest = rows[source.time].max() if rows.height else None
        assert newest is None or isinstance(newest, datetime)
        return newest

    def follow(self, source: Source, consumer: StreamConsumer, *, decode: Decode = orjson.loads) -> Following:
        """Push the records of a stream as they come, in a thread, until `stop()`. `decode` makes a row of a record's bytes.

        The stream is told that a record is done once it is durable here, so that a crash loses none; what then comes
        again counts once. A record that is no row of the source is set aside: see `quarantined`.
        """
        self._flusher.start()
        return Following(Follower(source, consumer, self._ingestion, decode))

    def compact(self, source: Source) -> None:
        """Make few large files of the many small ones that pushes leave. No event changes; readers see no difference."""
        self._datasets.compact(source)

    def retain(self, source: Source, keep: str) -> int:
        """Delete events older than `keep`, such as "90d"; how many there were. Their files go when they are a week out of
        use. Refused while a view looks back further."""
        return self._datasets.retain(source, keep, now=datetime.fromtimestamp(self._clock.now_us() / US_PER_S, tz=UTC))

    def delete(self, source: Source) -> None:
        """Delete a source with its events. Refused, with the list of them, while views are made of it."""
        self._datasets.delete(source)
        self._describer.forget(source)

    def describe(
        self,
        what: Source | AnyView | FeatureRef | TrainingSet | str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Description:
        """What a source, a view or a training set holds: counts, nulls, quantiles, distinct and frequent values. Print it.

        Of a source, and of values that a view keeps, the days in [since, until) are described from statistics kept with the
        data; days of long ago are kept by month or year, and then the whole month or year is. Windows and ages depend on
        when they are read: a sample of the events is read, each when it was known.
        """
        if isinstance(what, TrainingSet):
            if since is not None or until is not None:
                raise InvalidInput("a training set is described whole: leave since and until out")
            return describe_training_set(what)
        self._ingestion.flush()
        if isinstance(what, str) and what not in self._registry.views() and what in self._registry.sources():
            what = self._registry.source(what)
        if isinstance(what, Source):
            return self._describer.source(self._registered(what), since, until)
        return self._describer.view(self._resolve(what), since, until)

    def replace_producer(
        self, source: Source, sample: Any, *, producer: str, force: tuple[str, str] | None = None
    ) -> ProducerChange:
        """May another producer feed a source? Its sample must have the table's columns and be like the rows of late.

        `sample` is what `ingest` takes. The decision is recorded, a hold too, with the evidence of every column; after an
        act `ingest(..., producer=...)` takes the new producer's batches, and views, models and endpoints stay as they
        are. `force=(who, why)` overrules a hold and is recorded.
        """
        self._ingestion.flush()
        change = consider(
            source,
            sample,
            producer,
            table=self._rows.source_table(self._registered(source)),
            kept=self._describer.kept(source),
            now_us=self._clock.now_us(),
            force=force,
        )
        self._producers.record(change)
        return change

    def close(self) -> None:
        """Flush, and release the stores. What was pushed is safe without it."""
        self._operations.close()
        self._flusher.stop()
        self._ingestion.flush()
        self._ingestion.close()
        self._store.close()
        self._pool.close()

    def _resolve(self, view: AnyView | FeatureRef | str) -> AnyView:
        if isinstance(view, View | Derived):
            known = self._registry.view(view.name, view.version)
            if isinstance(view, View) and view.transform is not None:
                self._rows.use(view)
            return known
        if isinstance(view, FeatureRef):
            return self._registry.view(view.view, view.version)
        return self._registry.view(view)

    def _plan(self, view: AnyView | FeatureRef | str) -> AnyPlan:
        """How to read a view. A name stands for another version once one is applied or retired."""
        key: tuple[str, object]
        key = (view, self._registry.stamp()) if isinstance(view, str) else (name_of(view), view.version)
        if key not in self._plans:
            found = self._resolve(view)
            self._plans[key] = self._reader.plan(found.name, found.version)
        return self._plans[key]
