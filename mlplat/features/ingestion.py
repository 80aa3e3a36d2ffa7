"""How events get in: batches into the tables, pushed events into the log and the online store, and from the log into
the tables."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from mlplat.errors import UserCodeError
from mlplat.features.backfill import Unwatched, Watch
from mlplat.features.definitions import Source, View
from mlplat.features.lmdb_store import LmdbStore, PushLog
from mlplat.features.online_writer import (
    MarkUpdate,
    Update,
    apply_updates,
    bulk_window_updates,
    latest_updates,
    row_updates,
    window_updates,
)
from mlplat.features.push import Row, normal_rows, to_frame
from mlplat.features.registry import Registry
from mlplat.features.tables import ID, EventTable
from mlplat.features.validate import clean
from mlplat.features.validate import to_frame as read_frame
from mlplat.features.view_rows import ViewRows, check_columns

FLUSH_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a batch did. `duplicates` were there already, or stood in the batch twice; `table_version` is the data
    version after it."""

    source: str
    rows: int
    added: int
    duplicates: int
    table_version: int


class Ingestion:
    """Writes the tables, the log and the online store of one home. Thread-safe; several processes may write."""

    def __init__(self, home: Path, registry: Registry, store: LmdbStore, views: ViewRows) -> None:
        self._registry = registry
        self._store = store
        self._rows = views
        self._log = PushLog(home / "push")
        self._schemas: dict[Source, Mapping[str, pl.DataType]] = {}
        self._current: tuple[frozenset[str], dict[str, list[View]]] = (frozenset(), {})

    def ingest(self, source: Source, data: Any, *, batch_id: str | None = None) -> Ingested:
        """All of the batch or nothing; a batch id (default: a hash of the content) that was ingested before adds
        nothing."""
        given = read_frame(data)
        self._registry.has_source(source)
        table = self._rows.source_table(source)
        with table.lock():
            rows = clean(source, given, table.schema())
            for view in self._views_of(source):
                check_columns(view, rows.schema)
            self._registry.put_source(source)
            self._flush_locked(source, table)
            app = f"batch:{batch_id or _content(rows)}"
            fresh = rows.clear() if table.transaction(app) >= 0 else table.new_rows(rows, source.time)
            version = table.append(fresh, app=app, number=1) if fresh.height else table.version()
        try:
            self.catch_up(source)
        except UserCodeError as error:
            raise UserCodeError(
                f"{error} The batch itself is in source {source.name!r}; it need not come again."
            ) from error
        return Ingested(
            source=source.name,
            rows=rows.height,
            added=fresh.height,
            duplicates=rows.height - fresh.height,
            table_version=version,
        )

    def push(self, source: Source, rows: Sequence[Mapping[str, Any]]) -> None:
        """Durable and readable online when it returns. The first rows of a source set its types and go to its table."""
        if not rows:
            return
        schema = self._schema(source)
        if schema is None:
            self.ingest(source, list(rows))
            return
        normal = _once(source, normal_rows(source, rows, schema))
        views = self._views_of(source)
        updates = [update for view in views for update in self._updates(view, normal, schema)]
        self._log.append([orjson.dumps({"source": source.name, "row": row}) for row in normal])
        # A view that was applied meanwhile: either its apply sees the log above, or this sees the view.
        later = [view for view in self._views_of(source) if view not in views]
        self._apply([*updates, *(update for view in later for update in self._updates(view, normal, schema))])

    def flush(self) -> None:
        """Bring every event that was pushed before this call into its table."""
        newest = self._log.last()
        while waiting := {entry["source"] for number, entry in self._waiting() if number <= newest}:
            for name in sorted(waiting):
                source = self._registry.source(name)
                table = self._rows.source_table(source)
                with table.lock():
                    self._flush_locked(source, table)

    def catch_up(self, source: Source) -> None:
        """Bring what the tables have, and the online store lacks, to the online store."""
        for view in self._views_of(source):
            if self._rows.can_make(view):
                self.catch_up_view(view)

    def catch_up_view(self, view: View, watch: Watch | None = None) -> None:
        mark = f"{view.name}@{view.version}/mark".encode()
        after = MarkUpdate.batch(self._store.get([mark])[0])
        for rows, whole in self._rows.chunks(view, after_batch=after, watch=watch or Unwatched()):
            updates = row_updates(view, rows) if view.rows else list(bulk_window_updates(view, rows))
            self._apply([*updates, (mark, MarkUpdate(whole))])

    def close(self) -> None:
        self._log.close()

    def _updates(self, view: View, rows: list[Row], schema: Mapping[str, pl.DataType]) -> list[Update]:
        if view.windows:
            return window_updates(view, rows)
        if view.code is None:
            return latest_updates(view, rows)
        return row_updates(view, self._rows.make(view, to_frame(rows, schema)))

    def _apply(self, updates: Sequence[Update]) -> None:
        if updates:
            self._store.update([key for key, _ in updates], lambda blobs: apply_updates(updates, blobs))

    def _schema(self, source: Source) -> Mapping[str, pl.DataType] | None:
        """Kept per process: a table's types never change. Raises `Refused` if the name is another source's."""
        if source not in self._schemas:
            self._registry.has_source(source)
            schema = self._rows.source_table(source).schema()
            if schema is None:
                return None
            self._schemas[source] = schema
        return self._schemas[source]

    def _views_of(self, source: Source) -> list[View]:
        stamp = self._registry.stamp()
        if self._current[0] != stamp:
            self._current = (stamp, {})
        views = self._current[1]
        if source.name not in views:
            views[source.name] = self._registry.live_on(source.name)
        return views[source.name]

    def _waiting(self) -> list[tuple[int, dict[str, Any]]]:
        return [(number, orjson.loads(raw)) for number, raw in self._log.read(FLUSH_ROWS)]

    def _flush_locked(self, source: Source, table: EventTable) -> None:
        """Exactly once: an event that the table has already, because a flush was killed, is not added again."""
        mine = [(number, entry["row"]) for number, entry in self._waiting() if entry["source"] == source.name]
        schema = table.schema()
        if not mine or schema is None:
            return
        fresh = table.new_rows(to_frame([row for _, row in mine], schema), source.time)
        if fresh.height:
            table.append(fresh, app="push", number=mine[-1][0])
        self._log.remove(number for number, _ in mine)


def _once(source: Source, rows: Sequence[Row]) -> list[Row]:
    """Of rows with one time and id the first, as in the table."""
    kept: dict[tuple[int, int], Row] = {}
    for row in rows:
        kept.setdefault((row[source.time], row[ID]), row)
    return list(kept.values())


def _content(rows: pl.DataFrame) -> str:
    buffer = io.BytesIO()
    rows.write_ipc(buffer)
    return hashlib.blake2b(buffer.getbuffer(), digest_size=16).hexdigest()
