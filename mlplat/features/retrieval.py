"""Reading features offline: joins, in memory or in buckets, and the training sets made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features import labels as labelled
from mlplat.features import offline, parity
from mlplat.features.asof import NEVER_US
from mlplat.features.bucket_join import Joiner
from mlplat.features.bucket_tasks import Rows
from mlplat.features.buckets import limit_bytes, made_bytes
from mlplat.features.definitions import AT, AnyView, Derived, View
from mlplat.features.derived_views import DerivedViews, Stored
from mlplat.features.pinned import Pins
from mlplat.features.pool import Pool
from mlplat.features.push import to_us
from mlplat.features.registry import Registry
from mlplat.features.sampling import sample_labels
from mlplat.features.training_set import TrainingSet
from mlplat.features.view_rows import ViewRows

Known = Literal["then", "now"] | datetime
"""Whether a row sees what was known at its own time, what is known now, or what was known at a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a join may use: bytes of memory that are free now, and cores."""

    free_bytes: Callable[[], int]
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """The offline side of one home."""

    home: Path
    registry: Registry
    rows: ViewRows
    derived: DerivedViews
    pool: Pool
    machine: Machine

    def join(
        self,
        frame: pl.DataFrame,
        views: Sequence[AnyView],
        *,
        time: str,
        known: Known,
        memory: str | None,
        keep_expired: bool = False,
    ) -> pl.DataFrame:
        offline.check(frame, views)
        stored = self._stored(frame, views, time, known_us(known), memory, keep_expired=keep_expired)
        return frame.hstack(self.derived.columns(frame, views, time=time, stored=stored))

    def training_set(
        self,
        name: str,
        labels: pl.DataFrame,
        views: Sequence[AnyView],
        *,
        label: str,
        time: str,
        request: Sequence[str] | None,
        known: Known,
        memory: str | None,
        sample: float | None,
        seed: int,
    ) -> TrainingSet:
        rows = labelled.checked(name, labels, label, time)
        if sample is not None:
            keys = dict.fromkeys(key for view in self.made_of(views) for key in view.keys)
            rows = sample_labels(rows, sample, by=[*keys, time], seed=seed)
        sources = dict.fromkeys(view.source for view in self.made_of(views))
        versions = {source.name: self.rows.source_table(source).version() for source in sources}
        joined = self.join(rows, views, time=time, known=known, memory=memory)
        roles = labelled.Roles.of(joined, name, [view.ref for view in views], label, time, request)
        return labelled.write(self.home / "training_sets" / name, joined, roles, versions)

    def pin(self, views: Sequence[AnyView]) -> Pins:
        tables = {view.version: (view, self.rows.table_of(view)) for view in self.made_of(views)}
        return Pins(
            home=self.home,
            views=tuple(views),
            rows={
                version: Rows.of(view, table) if table.version() >= 0 else None
                for version, (view, table) in tables.items()
            },
        )

    def made_of(self, views: Sequence[AnyView]) -> list[View]:
        """The stored views that these are made of, and themselves where they are stored."""
        found: list[View] = []
        for view in views:
            if isinstance(view, View):
                found.append(view)
            else:
                found += self.made_of([self.registry.view(ref.view, ref.version) for ref in view.parents])
        return found

    def check_derived(self, view: Derived) -> None:
        """Parity on moments of the first source that it stands on; with request fields it waits for the first join."""
        self.derived.use(view)
        stored = self.made_of([view])
        rows = self.rows.of(stored[0])
        if rows.is_empty() or {key for parent in stored for key in parent.keys} != set(view.keys):
            return
        absent = [pl.lit(None).alias(key) for key in view.keys if key not in stored[0].keys]
        moments = rows.head(parity.ROWS).select(*stored[0].keys, pl.col(stored[0].source.time).alias(AT), *absent)
        self.derived.columns(moments, [view], time=AT, stored=self._stored(moments, [view], AT, None, None))

    def _stored(
        self,
        frame: pl.DataFrame,
        views: Sequence[AnyView],
        time: str,
        at_us: int | None,
        memory: str | None,
        *,
        keep_expired: bool = False,
    ) -> Stored:
        joiner = Joiner(
            root=self.home / "tmp",
            limit=limit_bytes(memory, available=self.machine.free_bytes()),
            made=made_bytes(self.made_of(views), frame.height),
            workers=self.machine.cores,
            run=self.pool.run,
        )

        def columns(view: View) -> list[pl.Series]:
            table = self.rows.table_of(view)
            read = (
                replace(view, ttl_us=None) if keep_expired else view
            )  # another version by name: the rows are this one's
            return joiner.columns(
                frame, read, time=time, table=table, rows_of=lambda _: self._rows_of(view, frame), known_us=at_us
            )

        return columns

    def _rows_of(self, view: View, frame: pl.DataFrame) -> pl.DataFrame:
        rows = self.rows.of(view)
        return rows if rows.width else offline.empty_rows(view, {key: frame.schema[key] for key in view.keys})


def known_us(known: Known) -> int | None:
    if known == "then":
        return None
    if isinstance(known, datetime):
        return aware_us(known, "known")
    if known == "now":
        return int(NEVER_US) - 1
    raise InvalidInput(f"known={known!r} must be 'then', 'now' or a datetime with a zone")


def aware_us(at: datetime, argument: str = "at") -> int:
    if at.tzinfo is None:
        raise InvalidInput(f"{argument}={at.isoformat()} has no time zone; say which, as in datetime(..., tzinfo=UTC)")
    return to_us(at)
