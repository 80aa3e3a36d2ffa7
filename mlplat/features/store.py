"""The feature store as users meet it: `platform.features`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, MlplatError, unknown
from mlplat.features import labels as labelled
from mlplat.features.definitions import Source, View
from mlplat.features.ingestion import Ingested, Ingestion
from mlplat.features.lmdb_store import LmdbStore
from mlplat.features.offline import empty_rows, join
from mlplat.features.push import to_us
from mlplat.features.reader import OnlineFeatures, open_reader
from mlplat.features.registry import Registry, ViewVersion
from mlplat.features.training_set import TrainingSet
from mlplat.features.transform import POLARS_TYPES
from mlplat.features.view_rows import Pool, ViewRows
from mlplat.model.signature import FeatureRef

FLUSH_S = 5.0
_LOG = logging.getLogger(__name__)

__all__ = ["FeatureStore", "open_reader"]


class FeatureStore:
    """Sources, views, and both ways to read them. Thread-safe; several processes of one machine may open one home."""

    def __init__(self, home: Path, *, clock: Clock, pool: Pool) -> None:
        self._home = home
        self._clock = clock
        self._registry = Registry(home / "features")
        self._store = LmdbStore(home / "online")
        self._rows = ViewRows(home, pool)
        self._ingestion = Ingestion(home, self._registry, self._store, self._rows)
        self._reader = OnlineFeatures(self._store, self._registry)
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._flusher: threading.Thread | None = None

    def apply(self, *views: View) -> list[ViewVersion]:
        """Make these definitions the current versions, and bring the online store up to date with them.

        The same definition again changes nothing. A transform is checked for parity on the data that is there, or on
        the first that comes. Raises `ParityError`, `UserCodeError`, or `InvalidInput` for a column that the source
        has not.
        """
        for view in views:
            if not isinstance(view, View):
                raise InvalidInput(
                    f"apply takes views, and got {type(view).__name__}; declare one with @F.view(source)"
                )
        for view in views:
            self._registry.put_source(view.source)
            self._rows.use(view)
            self._ingestion.flush()
            self._ingestion.catch_up_view(view)
            if self._registry.put_view(view, now_us=self._clock.now_us()):
                # What was pushed before the pushing process could see the view.
                self._ingestion.flush()
                self._ingestion.catch_up_view(view)
        return [self._registry.history(view.name)[-1] for view in views]

    def ingest(self, source: Source, data: Any, *, batch_id: str | None = None) -> Ingested:
        """Add a batch of events: a polars, pandas or Arrow table, rows as dicts, or the path of Parquet or CSV.

        The whole batch lands or none of it; events that are there already are not added again. Raises `BatchRefused`.
        """
        return self._ingestion.ingest(source, data, batch_id=batch_id)

    def push(self, source: Source, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Add one event or a few as they happen. When it returns they are durable, and readable online.

        They reach the table within 5 s, or at the next offline read. Raises `BatchRefused`.
        """
        self._start_flusher()
        self._ingestion.push(source, [rows] if isinstance(rows, Mapping) else rows)

    def flush(self) -> None:
        """Bring pushed events into the tables now."""
        self._ingestion.flush()

    def join(self, frame: Any, views: Sequence[View | FeatureRef | str], *, time: str) -> pl.DataFrame:
        """The rows of `frame`, in their order, with `view.feature` columns as they were known at `time` (with a time
        zone).

        A view may be given by its pinned version, as a model has it, or by name for the current one.
        """
        self._ingestion.flush()
        rows = labelled.with_time(labelled.to_polars(frame), time)
        return join(rows, [self._resolve(view) for view in views], time=time, rows_of=lambda v: self._rows_of(v, rows))

    def training_set(
        self,
        name: str,
        labels: Any,
        views: Sequence[View | str],
        *,
        label: str,
        time: str,
        request: Sequence[str] | None = None,
    ) -> TrainingSet:
        """Labels with the features known at each label's time, stored under the home and pinned to exact versions.

        `request` names the columns that a caller of the model will send as inputs; the default is every column that
        is no key, label or time. A key is an input only if it is named here.
        """
        pinned = [self._resolve(view) for view in views]
        rows = labelled.checked(name, labelled.with_time(labelled.to_polars(labels), time), label, time)
        joined = self.join(rows, pinned, time=time)
        sources = {view.source.name: self._rows.source_table(view.source).version() for view in pinned}
        return labelled.write(
            self._home / "training_sets" / name,
            joined,
            labelled.Roles.of(joined, name, [view.ref for view in pinned], label, time, request),
            sources,
        )

    def online(self, view: View | str, keys: Mapping[str, Sequence[Any]], *, at: datetime | None = None) -> pa.Table:
        """Features of many entities now, or at `at`: the keys, the features, and `status` (ok, missing or expired)
        per row."""
        ref = self._resolve(view).ref
        entities = {key: _values(key, keys, ref) for key in ref.keys}
        lengths = {len(values) for values in entities.values()}
        if len(lengths) > 1:
            raise InvalidInput(f"the keys of view {ref.view!r} differ in length: {sorted(lengths)}")
        at_us = self._clock.now_us() if at is None else _aware_us(at)
        found = self._reader.read([ref], entities, [at_us] * lengths.pop())
        features = [
            pl.Series(f.name, found.columns[column], dtype=POLARS_TYPES[f.dtype])
            for f, column in zip(ref.fields, ref.columns(), strict=True)
        ]
        keyed = [pl.Series(key, values) for key, values in entities.items()]
        status = pl.Series("status", found.status[ref.view], dtype=pl.String)
        return pl.DataFrame([*keyed, *features, status]).to_arrow(compat_level=pl.CompatLevel.oldest())

    def newest(self, source: Source) -> datetime | None:
        """The newest event time of a source; None while it has no events."""
        self._ingestion.flush()
        rows = self._rows.source_table(source).read([source.time])
        newest = rows[source.time].max() if rows.height else None
        assert newest is None or isinstance(newest, datetime)
        return newest

    def view(self, name: str, version: str | None = None) -> View:
        """A registered definition: the current one, or the version asked for."""
        return self._registry.view(name, version)

    def views(self) -> list[str]:
        return self._registry.views()

    def history(self, name: str) -> list[ViewVersion]:
        """The versions of a view, oldest first."""
        found = self._registry.history(name)
        if not found:
            raise unknown("view", name, self._registry.views())
        return found

    def close(self) -> None:
        """Flush, and release the stores. What was pushed is safe without it."""
        self._stopped.set()
        if self._flusher is not None:
            self._flusher.join()
        self._ingestion.flush()
        self._ingestion.close()
        self._store.close()

    def _resolve(self, view: View | FeatureRef | str) -> View:
        if isinstance(view, View):
            known = self._registry.view(view.name, view.version)
            if view.transform is not None:
                self._rows.use(view)
            return known
        if isinstance(view, FeatureRef):
            return self._registry.view(view.view, view.version)
        return self._registry.view(view)

    def _rows_of(self, view: View, frame: pl.DataFrame) -> pl.DataFrame:
        rows = self._rows.of(view)
        return rows if rows.width else empty_rows(view, {key: frame.schema[key] for key in view.keys})

    def _start_flusher(self) -> None:
        with self._starting:
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._flush_often, name="mlplat-flush", daemon=True)
                self._flusher.start()

    def _flush_often(self) -> None:
        while not self._stopped.wait(FLUSH_S):
            try:
                self._ingestion.flush()
            except MlplatError as error:
                # The events are safe in the log; the next round, or the next offline read, tries again.
                _LOG.warning("pushed events could not be brought into their tables yet: %s", error)


def _values(key: str, keys: Mapping[str, Sequence[Any]], ref: FeatureRef) -> list[Any]:
    if key not in keys:
        raise InvalidInput(f"view {ref.view!r} is keyed by {', '.join(ref.keys)}; {key!r} is not given")
    if isinstance(keys[key], str):
        raise InvalidInput(f"key {key!r}: give a list of entities, as in {{{key!r}: [{keys[key]!r}]}}")
    return [value.item() if isinstance(value, np.generic) else value for value in keys[key]]


def _aware_us(at: datetime) -> int:
    if at.tzinfo is None:
        raise InvalidInput(f"at={at.isoformat()} has no time zone; say which, as in datetime(..., tzinfo=UTC)")
    return to_us(at)
