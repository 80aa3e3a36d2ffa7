"""How events get in: batches into the tables, pushed events into the log and the online store, and from the log into the tables."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.definitions import Source, View
from mlplat.features.lmdb_store import LmdbStore, PushLog
from mlplat.features.online_writer import Update, apply_updates, bulk_window_updates, row_updates, window_updates
from mlplat.features.push import Row, normal_rows, to_frame
from mlplat.features.registry import Registry
from mlplat.features.tables import BATCH, EventTable
from mlplat.features.transform import Transform, check_parity, instance, make_rows
from mlplat.features.validate import clean
from mlplat.features.validate import to_frame as read_frame

FLUSH_ROWS = 10_000
Pool = Callable[[View, pl.DataFrame], pl.DataFrame]
"""Makes a view's rows of the source's rows on an actor pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a batch did. `duplicates` were there already, or stood in the batch twice; `table_version` is the data version after it."""

    source: str
    rows: int
    added: int
    duplicates: int
    table_version: int


class Ingestion:
    """Writes the tables, the log and the online store of one home. Thread-safe; several processes may write."""

    def __init__(self, home: Path, registry: Registry, store: LmdbStore, pool: Pool) -> None:
        self._home = home
        self._registry = registry
        self._store = store
        self._pool = pool
        self._log = PushLog(home / "push")
        self._live: dict[str, tuple[View, Transform | None]] = {}
        self._schemas: dict[str, Mapping[str, pl.DataType]] = {}
        self._current: tuple[tuple[int, ...], dict[str, list[View]]] = ((), {})

    def table(self, source: Source) -> EventTable:
        return EventTable(self._home / "tables" / "sources" / source.name)

    def view_table(self, view: View) -> EventTable:
        return EventTable(self._home / "tables" / "views" / f"{view.name}@{view.version}")

    def use(self, view: View) -> None:
        """Remember a view's code, which only this process has."""
        self._live[view.version] = (view, instance(view))

    def ingest(self, source: Source, data: Any, *, batch_id: str | None = None) -> Ingested:
        """All of the batch or nothing; a batch id (default: a hash of the content) that was ingested before adds nothing."""
        given = read_frame(data)
        table = self.table(source)
        with table.lock():
            rows = clean(source, given, table.schema())
            self._registry.put_source(source)
            self._flush_locked(source, table)
            app = f"batch:{batch_id or _content(rows)}"
            fresh = rows.clear() if table.transaction(app) >= 0 else table.new_rows(rows, source.time)
            version = table.append(fresh, app=app, number=1) if fresh.height else table.version()
        self.catch_up(source)
        return Ingested(
            source=source.name,
            rows=rows.height,
            added=fresh.height,
            duplicates=rows.height - fresh.height,
            table_version=version,
        )

    def push(self, source: Source, rows: Sequence[Mapping[str, Any]]) -> None:
        """Durable and readable online when it returns. The first rows of a source set its types and go to its table."""
        schema = self._schema(source)
        if schema is None:
            self.ingest(source, list(rows))
            return
        normal = normal_rows(source, rows, schema)
        updates = [update for view in self._views_of(source) for update in self._updates(view, normal, schema)]
        self._log.append([orjson.dumps({"source": source.name, "row": row}) for row in normal])
        self._apply(updates)

    def flush(self) -> None:
        """Bring every event that was pushed before this call into its table."""
        newest = self._log.last()
        while pending := {orjson.loads(raw)["source"] for number, raw in self._log.read(FLUSH_ROWS) if number <= newest}:
            for name in sorted(pending):
                source = self._registry.source(name)
                table = self.table(source)
                with table.lock():
                    self._flush_locked(source, table)

    def catch_up(self, source: Source) -> None:
        """Bring what the tables have, and the online store lacks, to the online store."""
        for view in self._views_of(source):
            if view.code is None or view.version in self._live:
                self.catch_up_view(view)

    def catch_up_view(self, view: View) -> None:
        mark = f"{view.name}@{view.version}/mark".encode()
        done = int.from_bytes(self._store.get([mark])[0] or b"\xff" * 8, "big", signed=True)
        rows = self.rows_of(view, after_batch=done)
        if rows.is_empty():
            return
        updates = row_updates(view, rows) if view.rows else list(bulk_window_updates(view, rows))
        newest = max(int(rows[BATCH].max()), done)  # type: ignore[arg-type]
        self._apply([*updates, (mark, lambda _: newest.to_bytes(8, "big", signed=True))])

    def rows_of(self, view: View, *, after_batch: int = -1) -> pl.DataFrame:
        """The rows that a view's features are read from, after those of the newest events were made."""
        if view.code is not None:
            self._materialize(view)
            return self.view_table(view).read(after_batch=after_batch)
        columns = dict.fromkeys(
            [*view.keys, view.source.time, "_id", BATCH, *view.value_columns(), *(f.column for f in view.rows if f.column)]
        )
        self._check_columns(view, list(columns))
        rows = self.table(view.source).read([*columns], after_batch=after_batch)
        return make_rows(view, None, rows).with_columns(rows[BATCH]) if view.rows and rows.height else rows

    def close(self) -> None:
        self._log.close()

    def _check_columns(self, view: View, columns: list[str]) -> None:
        schema = self.table(view.source).schema()
        absent = [name for name in columns if schema is not None and name not in schema and not name.startswith("_")]
        if absent and schema is not None:
            raise InvalidInput(
                f"view {view.name!r} reads column {absent[0]!r}, and source {view.source.name!r} has {', '.join(schema)}"
            )

    def _materialize(self, view: View) -> None:
        """Append the rows of a transform for the events that it has not seen. Parity is checked before its first rows."""
        table, source = self.view_table(view), self.table(view.source)
        with table.lock():
            newest, done = source.version(), table.transaction("source")
            if newest <= done:
                return
            rows = source.read(after_batch=done)
            if rows.is_empty():
                return
            known, transform = self._live.get(view.version) or (view, instance(view))
            assert transform is not None
            if done < 0:
                check_parity(view, transform, rows)
            table.append(self._pool(known, rows), app="source", number=newest)

    def _updates(self, view: View, rows: list[Row], schema: Mapping[str, pl.DataType]) -> list[Update]:
        if view.windows:
            return window_updates(view, rows)
        _, transform = self._live.get(view.version) or (view, instance(view))
        return row_updates(view, make_rows(view, transform, to_frame(rows, schema)))

    def _apply(self, updates: Sequence[Update]) -> None:
        if updates:
            self._store.update([key for key, _ in updates], lambda blobs: apply_updates(updates, blobs))

    def _schema(self, source: Source) -> Mapping[str, pl.DataType] | None:
        """Kept per process: a table's types never change."""
        if source.name not in self._schemas:
            schema = self.table(source).schema()
            if schema is None:
                return None
            self._schemas[source.name] = schema
        return self._schemas[source.name]

    def _views_of(self, source: Source) -> list[View]:
        stamp = self._registry.stamp()
        if self._current[0] != stamp:
            self._current = (stamp, {})
        views = self._current[1]
        if source.name not in views:
            views[source.name] = self._registry.current(source.name)
        return views[source.name]

    def _flush_locked(self, source: Source, table: EventTable) -> None:
        """Exactly once: the table remembers the last number that it took from the log."""
        entries = [(number, orjson.loads(raw)) for number, raw in self._log.read(FLUSH_ROWS)]
        mine = [(number, entry["row"]) for number, entry in entries if entry["source"] == source.name]
        if not mine:
            return
        taken = table.transaction("push")
        rows = [row for number, row in mine if number > taken]
        schema = table.schema()
        assert schema is not None
        if rows:
            fresh = table.new_rows(to_frame(rows, schema), source.time)
            if fresh.height:
                table.append(fresh, app="push", number=mine[-1][0])
        self._log.remove(number for number, _ in mine)


def _content(rows: pl.DataFrame) -> str:
    buffer = io.BytesIO()
    rows.write_ipc(buffer)
    return hashlib.blake2b(buffer.getbuffer(), digest_size=16).hexdigest()
