"""The data sets of a home: the events of each source. What they hold, and their upkeep."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlplat.errors import Refused
from mlplat.features.definitions import Source, View, duration_us
from mlplat.features.ingestion import Ingestion
from mlplat.features.registry import Registry
from mlplat.features.tables import EventTable
from mlplat.features.view_rows import ViewRows

SMALL_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DataVersion:
    """A version of the data: its number, when it was made, and by what ("WRITE", "OPTIMIZE", "DELETE", ...)."""

    number: int
    at: datetime
    operation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The events of a source.

    `columns` are the names with their types; `first` and `last` are event times, None without events; `versions` are the
    data versions that are known, oldest first. Compaction makes one file of many small ones, of which there are
    `small_files`; `quarantined` rows could not be taken; `views` are made of it.
    """

    name: str
    source: Source
    columns: Mapping[str, str]
    rows: int
    first: datetime | None
    last: datetime | None
    files: int
    small_files: int
    size_bytes: int
    versions: Sequence[DataVersion]
    quarantined: int
    views: Sequence[str]

    @property
    def compacted(self) -> bool:
        return self.small_files <= 1


class DataSets:
    """Thread-safe; several processes may use it."""

    def __init__(self, registry: Registry, rows: ViewRows, ingestion: Ingestion) -> None:
        self._registry = registry
        self._rows = rows
        self._ingestion = ingestion

    def names(self) -> list[str]:
        return self._registry.sources()

    def describe(self, name: str) -> DataSet:
        """Raises `NotFound`, with the near names."""
        source = self._registry.source(name)
        self._ingestion.flush()
        now = self._rows.source_table(source).now()
        span = now.span(source.time)
        sizes = now.file_sizes()
        return DataSet(
            name=name,
            source=source,
            columns={column: str(dtype) for column, dtype in (now.schema() or {}).items()},
            rows=now.rows(),
            first=span[0] if span else None,
            last=span[1] if span else None,
            files=len(sizes),
            small_files=sum(size < SMALL_BYTES for size in sizes),
            size_bytes=sum(sizes),
            versions=[DataVersion(number=n, at=at, operation=operation) for n, at, operation in now.history()],
            quarantined=self._ingestion.quarantine(source).count(),
            views=self._users(source),
        )

    def compact(self, source: Source) -> None:
        """Few large files for many small ones, in the source's table and in those made of it."""
        self._known(source)
        self._ingestion.flush()
        for table in self._tables(source):
            with table.lock():
                table.compact()

    def retain(self, source: Source, keep: str, *, now: datetime) -> int:
        """How many events it took out."""
        self._known(source)
        keep_us = duration_us(keep)
        for view in self._registry.live_on(source.name):
            _refuse_if_needed(view, keep, keep_us)
        self._ingestion.flush()
        moment = now.astimezone(UTC) - timedelta(microseconds=keep_us)
        deleted = []
        for table in self._tables(source):
            with table.lock():
                deleted.append(table.delete_before(source.time, moment))
        return deleted[0]

    def delete(self, source: Source) -> None:
        """Its events, its bad rows and its name. Refused, with the list, while a view is made of it."""
        self._known(source)
        if users := self._users(source):
            raise Refused(
                f"source {source.name!r} is used by view {', '.join(users)}: retire every version of these first, with "
                "platform.features.retire(view)"
            )
        self._ingestion.flush()
        table = self._rows.source_table(source)
        with table.lock():
            self._ingestion.forget(source)
            _remove(table.path)
            _remove(self._ingestion.quarantine(source).path)
            self._registry.delete_source(source.name)

    def _known(self, source: Source) -> None:
        """Refused if another source has the name; `NotFound` if none has."""
        if not self._registry.has_source(source):
            self._registry.source(source.name)

    def _users(self, source: Source) -> list[str]:
        return sorted({view.name for view in self._registry.live_on(source.name)})

    def _tables(self, source: Source) -> list[EventTable]:
        made = [view for view in self._registry.live_on(source.name) if view.code is not None]
        return [self._rows.source_table(source), *map(self._rows.view_table, made)]


def _refuse_if_needed(view: View, keep: str, keep_us: int) -> None:
    """The online store keeps what the view needs, so the table must, too: both give the same features."""
    if view.rows and view.ttl_us is None:
        raise Refused(
            f"keep={keep!r}: view {view.name!r} reads the newest row however old it is; declare a ttl of at most {keep}, "
            "apply it, and retire the version without"
        )
    if max(view.span_us, view.ttl_us or 0) > keep_us:
        raise Refused(
            f"keep={keep!r} is shorter than what view {view.name!r} looks back: keep more, or retire it first"
        )


def _remove(folder: Path) -> None:
    """In one step: a folder that is half removed is no table."""
    if folder.exists():
        gone = folder.with_name(f".gone-{folder.name}")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)
