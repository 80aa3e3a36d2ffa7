"""How events get in: batches into the tables, pushed events into the log and the online store, and from the log into
the tables."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from mlplat.errors import UserCodeError
from mlplat.features.codec import mark_key
from mlplat.features.definitions import Source, View
from mlplat.features.lmdb_store import PushLog
from mlplat.features.online import OnlineStore
from mlplat.features.online_writer import (
    MarkUpdate,
    Update,
    bulk_window_updates,
    latest_updates,
    row_updates,
    window_updates,
    write,
)
from mlplat.features.push import Row, normal_rows, to_frame
from mlplat.features.registry import Registry
from mlplat.features.tables import BATCH, ID, EventTable
from mlplat.features.validate import clean
from mlplat.features.validate import to_frame as read_frame
from mlplat.features.view_rows import ViewRows, check_columns

FLUSH_ROWS = 10_000
_LOG = logging.getLogger(__name__)


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

    def __init__(self, home: Path, registry: Registry, store: OnlineStore, views: ViewRows) -> None:
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

    def refresh(self) -> None:
        """Bring an online store that is new, is another than before, or lost something, up to what the tables have."""
        self.flush()
        for name in self._registry.sources():
            newest = self._rows.source_table(self._registry.source(name)).version()
            for view in self._registry.live_on(name):
                if self._rows.can_make(view) and self._behind(view, newest):
                    self._refresh_view(view)

    def _refresh_view(self, view: View) -> None:
        try:
            self.catch_up_view(view)
        except UserCodeError as error:
            # Another version of the view helps, and to apply one the store must open; offline reads raise this.
            _LOG.warning("view %r stays behind in the online store: %s", view.name, error)

    def _behind(self, view: View, newest: int) -> bool:
        """Whether the online store may lack something of the view; `newest` is the version of its source's table."""
        mark = MarkUpdate.batch(self._store.get([mark_key(view.name, view.version)])[0])
        if view.code is None:
            return mark < newest
        made = self._rows.view_table(view)
        return mark < made.version() or made.transaction("source") < newest

    def catch_up_view(self, view: View) -> None:
        mark = mark_key(view.name, view.version)
        rows = self._rows.of(view, after_batch=MarkUpdate.batch(self._store.get([mark])[0]))
        if rows.is_empty():
            return
        updates = row_updates(view, rows) if view.rows else list(bulk_window_updates(view, rows))
        newest = rows[BATCH].max()
        assert isinstance(newest, int)
        self._apply([*updates, (mark, MarkUpdate(newest))])

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
            write(self._store, updates)

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
