"""Which statistics describe what: those kept of a source or of a view's rows, or those of a sample that is read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.definitions import AnyView, Derived, Source, View
from mlplat.features.description import Description
from mlplat.features.push import to_us
from mlplat.features.statistics import Covered, Kept, Statistics, covering
from mlplat.features.tables import ID
from mlplat.features.training_set import TrainingSet
from mlplat.features.transform import stored
from mlplat.features.view_rows import ViewRows
from mlplat.stats import TableSketch

SAMPLE = 2_000
_AT = "_at"

Read = Callable[[pl.DataFrame, View, str], pl.DataFrame]
"""A frame of entities with the features of a view, as they were known at a column of times."""


class Describer:
    """Describes what one home holds. Thread-safe."""

    def __init__(self, statistics: Statistics, rows: ViewRows, read: Read) -> None:
        self._statistics = statistics
        self._rows = rows
        self._read = read

    def kept(self, source: Source) -> Kept:
        """The statistics of a source's table, up to date."""
        return self._statistics.of(f"sources/{source.name}", self._rows.source_table(source), source.time)

    def forget(self, what: Source | View) -> None:
        """Delete what is kept of a source that is deleted, or of a version that is retired."""
        name = f"views/{what.name}@{what.version}" if isinstance(what, View) else f"sources/{what.name}"
        self._statistics.forget(name)

    def source(self, source: Source, since: datetime | None, until: datetime | None) -> Description:
        covered = covering(self.kept(source), since_us=_us(since), until_us=_us(until))
        return Description(
            subject=f"source {source.name!r}",
            rows=_events(covered),
            sketch=covered.sketch,
            about=_about(source.description, source.owner, source.tags),
        )

    def view(self, view: AnyView, since: datetime | None, until: datetime | None) -> Description:
        """Raises `InvalidInput` for a derived view, which is computed of requests."""
        if isinstance(view, Derived):
            raise InvalidInput(
                f"view {view.name!r} is computed of requests when it is read: describe a training set that has it"
            )
        tolerance = {} if view.tolerance is None else {"tolerance": f"{view.tolerance:g}, relative"}
        said, sketch = self._of_view(view, since, until)
        return Description(
            subject=f"view {view.name!r}, version {view.version}, of source {view.source.name!r}",
            rows=said,
            sketch=sketch,
            about={**_about(view.description, view.about.owner, view.about.tags), **tolerance},
        )

    def _of_view(self, view: View, since: datetime | None, until: datetime | None) -> tuple[str, TableSketch]:
        if len(stored(view)) < len(view.fields):  # windows and ages are not values of a row
            return self._sampled(view, _us(since), _us(until))
        if view.code is None:
            kept, column = self.kept(view.source), {f.name: str(f.column) for f in stored(view)}
        else:
            kept, column = self._kept_rows(view), {f.name: f.name for f in stored(view)}
        covered = covering(kept, since_us=_us(since), until_us=_us(until))
        known = covered.sketch.columns
        sketches = {name: known[of] for name, of in column.items() if of in known}
        return _events(covered), TableSketch(rows=covered.sketch.rows, columns=sketches)

    def _kept_rows(self, view: View) -> Kept:
        if self._rows.can_make(view):
            self._rows.of(view, after_batch=2**62)  # makes the rows of events that are new to it, and reads none
        table = self._rows.view_table(view)
        return self._statistics.of(f"views/{view.name}@{view.version}", table, view.source.time)

    def _sampled(self, view: View, since_us: int | None, until_us: int | None) -> tuple[str, TableSketch]:
        time = view.source.time
        rows = self._rows.source_table(view.source).read([*view.identity_columns(), ID])
        if rows.is_empty():
            return "no events yet", TableSketch(columns={})
        at = rows[time].to_physical()
        low, high = at.min() if since_us is None else since_us, at.max() if until_us is None else until_us - 1
        inside = rows.filter(at.is_between(low, high))
        sample = inside.filter(_chosen(inside, time))
        known = [name for name in (time, view.source.created) if name is not None]
        read = self._read(sample.select(*view.keys, pl.max_horizontal(known).alias(_AT)), view, _AT)
        named = read.select(pl.col(f"{view.name}.{f.name}").alias(f.name) for f in view.fields)
        return (
            f"a sample of {sample.height:,} of {inside.height:,} events, each read when it was known",
            TableSketch.of(named),
        )


def training_set(data: TrainingSet) -> Description:
    """Of all its rows."""
    frame = pl.from_arrow(data.table())
    assert isinstance(frame, pl.DataFrame)
    return Description(
        subject=f"training set {data.name!r}, snapshot {data.snapshot}",
        rows=f"{data.rows:,} rows, label {data.label!r}, time {data.time!r}",
        sketch=TableSketch.of(frame),
    )


def _chosen(rows: pl.DataFrame, time: str) -> pl.Series:
    """`SAMPLE` rows by a hash of the event's identity: the same events at every call."""
    with np.errstate(over="ignore"):
        mixed = rows[ID].to_numpy().view(np.uint64) ^ (
            rows[time].to_physical().to_numpy().view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        )
        mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    if len(mixed) <= SAMPLE:
        return pl.Series(np.ones(len(mixed), dtype=bool))
    return pl.Series(mixed <= np.partition(mixed, SAMPLE - 1)[SAMPLE - 1])


def _events(covered: Covered) -> str:
    if covered.since_us is None or covered.until_us is None:
        return "no events"
    first, last = (np.datetime64(us, "us").astype("datetime64[D]") for us in (covered.since_us, covered.until_us - 1))
    return f"{covered.sketch.rows:,} rows of the days {first} to {last} (UTC)"


def _us(at: datetime | None) -> int | None:
    if at is not None and at.tzinfo is None:
        raise InvalidInput(f"{at.isoformat()} has no time zone; say which, as in datetime(..., tzinfo=UTC)")
    return None if at is None else to_us(at)


def _about(description: str, owner: str, tags: tuple[str, ...]) -> dict[str, str]:
    return {"description": description, "owner": owner, "tags": ", ".join(tags)}
