"""How events get in: batches into the tables, pushed events into the log and the online store, and from the log into
the tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
import polars as pl
import pyarrow as pa

from mlplat.errors import BatchRefused, Conflict, InvalidInput, Problem, UserCodeError
from mlplat.features.backfill import Unwatched, Watch
from mlplat.features.codec import mark_key
from mlplat.features.definitions import Source, View
from mlplat.features.lmdb_store import PushLog
from mlplat.features.online import OnlineStore
from mlplat.features.online_writer import (
    MarkUpdate,
    Update,
    bulk_window_updates,
    latest_updates,
    made_updates,
    newest_rows,
    row_updates,
    window_updates,
    write,
)
from mlplat.features.push import Row, sorted_out, to_frame
from mlplat.features.quarantine import BadRow, Quarantine
from mlplat.features.registry import Registry
from mlplat.features.staging import Stage, Staged
from mlplat.features.table_version import TableVersion, arrow_schema
from mlplat.features.tables import ID, EventTable
from mlplat.features.view_rows import ONLINE_CHUNK_BYTES, ViewRows, check_columns

FLUSH_ROWS = 10_000
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a batch did. `duplicates` were there already, or stood in the batch twice; `quarantined` could not be taken and
    were set aside; `table_version` is the data version after it."""

    source: str
    rows: int
    added: int
    duplicates: int
    table_version: int
    quarantined: int = 0


OnBad = Literal["refuse", "quarantine"]
NewColumns = Literal["refuse", "add"]


class Ingestion:
    """Writes the tables, the log and the online store of one home. Thread-safe; several processes may write."""

    def __init__(self, home: Path, registry: Registry, store: OnlineStore, views: ViewRows) -> None:
        self._home = home
        self._registry = registry
        self._store = store
        self._rows = views
        self._log = PushLog(home / "push")
        self._schemas: dict[Source, Mapping[str, pl.DataType]] = {}
        self._current: tuple[frozenset[str], dict[str, list[View]]] = (frozenset(), {})

    def ingest(
        self,
        source: Source,
        data: Any,
        *,
        batch_id: str | None = None,
        new_columns: NewColumns = "refuse",
        on_bad: OnBad = "refuse",
    ) -> Ingested:
        """All of the batch or nothing; a batch id (default: a hash of the content) that was ingested before adds
        nothing."""
        _one_of("new_columns", new_columns, get_args(NewColumns))
        _one_of("on_bad", on_bad, get_args(OnBad))
        self._registry.has_source(source)
        table = self._rows.source_table(source)
        schema = table.schema()
        stage = Stage(source, schema, add_columns=new_columns == "add", set_aside=on_bad == "quarantine")
        with Staged(self._home / "tables" / "staging") as staged:
            stage.read(data, staged)
            for view in self._views_of(source):
                check_columns(view, staged.schema)
            done = self._land(source, table, schema, staged, stage.bad, batch_id)
        try:
            self.catch_up(source)
        except UserCodeError as error:
            raise UserCodeError(
                f"{error} The batch itself is in source {source.name!r}; it need not come again."
            ) from error
        return done

    def _land(
        self,
        source: Source,
        table: EventTable,
        schema: Mapping[str, pl.DataType] | None,
        staged: Staged,
        bad: Sequence[BadRow],
        batch_id: str | None,
    ) -> Ingested:
        """The bad rows first: if this process dies between the two, the batch comes again and finds them there."""
        name = batch_id or staged.content
        added = 0

        def fresh(now: TableVersion) -> tuple[pa.Schema, Iterable[pl.DataFrame]] | None:
            nonlocal added
            if now.schema() != schema and now.schema() != staged.schema:
                raise Conflict(f"another writer changed the columns of source {source.name!r}: ingest the batch again")
            marks, added = staged.fresh(now, _identity(source))
            return (staged.arrow_schema, staged.marked(marks)) if added else None

        with table.lock():
            self._registry.put_source(source)
            self._flush_locked(source.name, table)
            self.quarantine(source).add(name, bad)
            version = table.add(fresh, app=f"batch:{name}", number=1)
        return Ingested(
            source=source.name,
            rows=staged.rows + len(bad),
            added=added,
            duplicates=staged.rows - added,
            quarantined=len(bad),
            table_version=version,
        )

    def quarantine(self, source: Source) -> Quarantine:
        return Quarantine(self._home / "tables" / "quarantine", source.name)

    def push(self, source: Source, rows: Sequence[Mapping[str, Any]]) -> None:
        """Durable and readable online when it returns. The first rows of a source set its types and go to its table."""
        if not rows:
            return
        schema = self._schema(source)
        if schema is None:
            self.ingest(source, list(rows))
            return
        good, problems = self._sorted_out(source, rows, schema)
        if problems:
            raise BatchRefused(f"source {source.name!r}", problems)
        self._push_normal(source, good)

    def push_good(self, source: Source, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
        """Push those that can be; the reason, by position, of each that cannot. The first that can sets the types."""
        bad: dict[int, str] = {}
        first = 0
        while first < len(rows) and (schema := self._schema(source)) is None:
            try:
                self.ingest(source, [rows[first]])
            except InvalidInput as error:
                bad[first] = str(error)
            first += 1
        if first < len(rows):
            assert schema is not None
            good, problems = self._sorted_out(source, rows[first:], schema)
            self._push_normal(source, good)
            for problem in problems:
                at = first + problem.rows[0]
                bad[at] = "; ".join(filter(None, (bad.get(at), f"{problem.field}: {problem.message}")))
        return bad

    def _sorted_out(
        self, source: Source, rows: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]
    ) -> tuple[list[Row], list[Problem]]:
        good, problems = sorted_out(source, rows, schema)
        newest = self._schema(source, anew=True) if problems else None
        # Another process may have added a column.
        return (good, problems) if newest in (None, schema) else sorted_out(source, rows, newest)

    def _push_normal(self, source: Source, rows: Sequence[Row]) -> None:
        schema = self._schema(source)
        if schema is None:
            raise Conflict(f"source {source.name!r} was deleted meanwhile: push the events again")
        normal = _once(source, rows)
        views = self._views_of(source)
        updates = [update for view in views for update in self._updates(view, normal, schema)]
        self._log.append([orjson.dumps({"source": source.name, "row": row}) for row in normal])
        # A view that was applied meanwhile: either its apply sees the log above, or this sees the view.
        later = [view for view in self._views_of(source) if view not in views]
        self._apply([*updates, *(update for view in later for update in self._updates(view, normal, schema))])
        self._restore([*views, *later])

    def _restore(self, views: Sequence[View]) -> None:
        """Bring views whose marks a server lost, with all the rest of them, back online: an event alone looks like all of its
        entity's."""
        marks = self._store.get([mark_key(view.name, view.version) for view in views])
        lost = [view for view, mark in zip(views, marks, strict=True) if mark is None]
        if lost:
            self.flush()
        for view in lost:
            self.catch_up_view(view)

    def flush(self) -> None:
        """Bring every event that was pushed before this call into its table."""
        newest = self._log.last()
        while waiting := {entry["source"] for number, entry in self._waiting() if number <= newest}:
            for name in sorted(waiting):
                self._flush(name)

    def _flush(self, name: str) -> None:
        table = EventTable(self._home / "tables" / "sources" / name)
        with table.lock():
            self._flush_locked(name, table)

    def forget(self, source: Source) -> None:
        """Drop what waits for the table of a source that is being deleted."""
        self._schemas.pop(source, None)
        self._log.remove(number for number, entry in self._waiting() if entry["source"] == source.name)

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

    def catch_up_view(self, view: View, watch: Watch | None = None) -> None:
        mark = mark_key(view.name, view.version)
        after = MarkUpdate.batch(self._store.get([mark])[0])
        for rows, whole in self._pieces(view, after, watch or Unwatched()):
            updates = row_updates(view, rows) if view.rows else list(bulk_window_updates(view, rows))
            self._apply([*updates, (mark, MarkUpdate(whole))])

    def _pieces(self, view: View, after: int, watch: Watch) -> Iterator[tuple[pl.DataFrame, int]]:
        """The view's rows behind a batch, in pieces, with the last batch that is whole behind each. Where only the newest row
        of an entity counts, pieces are held together until there are many entities: most rows need no update then."""
        held: pl.DataFrame | None = None
        whole = after
        for rows, whole in self._rows.chunks(view, after_batch=after, watch=watch):
            if not view.rows:
                yield rows, whole
                continue
            held = newest_rows(view, rows if held is None else pl.concat([held, rows]))
            if held.estimated_size() > ONLINE_CHUNK_BYTES:
                yield held, whole
                held = None
        if held is not None:
            yield held, whole

    def close(self) -> None:
        self._log.close()

    def _updates(self, view: View, rows: list[Row], schema: Mapping[str, pl.DataType]) -> list[Update]:
        if view.windows:
            return window_updates(view, rows)
        if view.code is None:
            return latest_updates(view, rows)
        return made_updates(view, rows, self._rows.make(view, to_frame(rows, schema)))

    def _apply(self, updates: Sequence[Update]) -> None:
        if updates:
            write(self._store, updates)

    def _schema(self, source: Source, *, anew: bool = False) -> Mapping[str, pl.DataType] | None:
        """Kept per process: a table's types never change, and columns are seldom added. Raises `Refused` if the name is
        another source's."""
        if anew or source not in self._schemas:
            self._registry.has_source(source)
            schema = self._rows.source_table(source).schema()
            if schema is None:
                self._schemas.pop(source, None)
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

    def _flush_locked(self, name: str, table: EventTable) -> None:
        """Exactly once: an event that the table has already, because a flush was killed, is not added again."""
        mine = [(number, entry["row"]) for number, entry in self._waiting() if entry["source"] == name]
        schema = table.schema()
        if not mine:
            return
        if schema is None:  # pushed while the source was deleted: it is as if it had been just before
            self._log.remove(number for number, _ in mine)
            return
        source, rows = self._registry.source(name), to_frame([row for _, row in mine], schema)

        def fresh(now: TableVersion) -> tuple[pa.Schema, Iterable[pl.DataFrame]] | None:
            new = now.new_rows(rows, _identity(source))
            return (arrow_schema(new), [new]) if new.height else None

        table.add(fresh)
        self._log.remove(number for number, _ in mine)


def _identity(source: Source) -> list[str]:
    """The columns that tell rows apart: of one event, those that became known at different times are its versions."""
    return [source.time, ID, *([] if source.created is None else [source.created])]


def _once(source: Source, rows: Sequence[Row]) -> list[Row]:
    """Of rows with one identity the first, as in the table."""
    kept: dict[tuple[int, ...], Row] = {}
    for row in rows:
        kept.setdefault(tuple(row[name] for name in _identity(source)), row)
    return list(kept.values())


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")
