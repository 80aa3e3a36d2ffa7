"""The rows that a view's features are read from: columns of its source, or what its transform made of the source's
rows.

Made rows are kept in a table of the view version, and made only for events that it has not seen.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mlplat.clock import Clock
from mlplat.errors import InvalidInput
from mlplat.features.backfill import Backfill, Unwatched, Watch, check
from mlplat.features.chunks import ChunkReader, Pending, Place
from mlplat.features.definitions import Source, View
from mlplat.features.maker import Maker
from mlplat.features.parity import check_parity
from mlplat.features.placement import Placement
from mlplat.features.pool import Pool
from mlplat.features.tables import BATCH, ID, EventTable
from mlplat.features.transform import POLARS_TYPES, fits, make_rows
from mlplat.features.validate import KEY_TYPES

ONLINE_CHUNK_BYTES = 16 * 2**20
"""How much of a table is brought to the online store at a time: an update is several times its row."""

_NUMERIC = (pl.Float64(), pl.Int64(), pl.Boolean())


class ViewRows:
    """The tables of one home as views see them, and the transforms whose code this process has. Thread-safe."""

    def __init__(self, home: Path, pool: Pool, clock: Clock) -> None:
        self._home = home
        self._pool = pool
        self._clock = clock
        self._live: dict[str, _Live] = {}
        self._calling = threading.Lock()

    def source_table(self, source: Source) -> EventTable:
        return EventTable(self._home / "tables" / "sources" / source.name)

    def view_table(self, view: View) -> EventTable:
        return EventTable(self._home / "tables" / "views" / f"{view.name}@{view.version}")

    def use(self, view: View) -> None:
        """Remember a view's code, which only this process has. Raises `UserCodeError` if its `__init__` raises."""
        live = self._live_or_made(view)
        with self._calling:
            _ = live.maker.transform

    def can_make(self, view: View) -> bool:
        return view.code is None or view.module is not None or view.version in self._live

    def forget(self, view: View) -> None:
        """Delete what was made for a version that is retired."""
        self._live.pop(view.version, None)
        table = self.view_table(view)
        with table.lock():
            shutil.rmtree(table.path, ignore_errors=True)

    def make(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of the view for a few pushed events: here, or on long-lived actors, as the view says or its calls show."""
        live = self._live_or_made(view)
        if live.placement.decide() == "actors":
            return self._pool.online(live.view, rows)
        began_s = self._clock.elapsed_s()
        made = self._inline(live, rows)
        live.placement.took(self._clock.elapsed_s() - began_s)
        return made

    def _inline(self, live: _Live, rows: pl.DataFrame) -> pl.DataFrame:
        """One call of a user's code at a time: it need not be thread-safe."""
        with self._calling:
            return live.maker.make(rows)

    def of(self, view: View, *, after_batch: int = -1) -> pl.DataFrame:
        """All rows, or those that came after a batch, once those of the newest events are made.

        An empty frame without columns if there is no table yet. Raises `InvalidInput` for a column that the source
        has not.
        """
        if not self._checked(view):
            return pl.DataFrame()
        if view.code is not None:
            self._materialize(view, Unwatched())
            return self.view_table(view).read(after_batch=after_batch)
        rows = self.source_table(view.source).read(_columns(view), after_batch=after_batch)
        return _as_read(view, rows)

    def table_of(self, view: View) -> EventTable:
        """Where the view's rows lie, once those of the newest events are made."""
        if view.code is None or not self._checked(view):
            return self.source_table(view.source)
        self._materialize(view, Unwatched())
        return self.view_table(view)

    def chunks(self, view: View, *, after_batch: int, watch: Watch) -> Iterator[tuple[pl.DataFrame, int]]:
        """What `of` gives, in pieces that fit in memory; with each the last batch that is whole behind it. Raises
        `Stopped`."""
        if not self._checked(view):
            return
        if view.code is not None:
            self._materialize(view, watch)
        table = self.source_table(view.source) if view.code is None else self.view_table(view)
        pending = Pending.of(table, view.source.time, since=Place(done=after_batch), upto=table.version())
        chunks = tuple(pending.chunks(pending.rows_in(ONLINE_CHUNK_BYTES)))
        columns = None if view.code is not None else tuple(_columns(view))
        reader = ChunkReader(table=table, time=view.source.time, chunks=chunks, columns=columns)
        watch.begin("online", done=0, total=pending.rows)
        for at, chunk in enumerate(chunks):
            check(watch)
            rows = reader.read(at)
            yield _as_read(view, rows) if view.code is None else rows, chunk.end.done
            watch.advance(rows.height)

    def _checked(self, view: View) -> bool:
        """Whether there is a table; raises `InvalidInput` if it cannot feed the view."""
        schema = self.source_table(view.source).schema()
        if schema is not None:
            check_columns(view, schema)
        return schema is not None

    def _materialize(self, view: View, watch: Watch) -> None:
        """Make the rows of the events that the view has not seen. Parity is checked before its first rows."""
        table, source = self.view_table(view), self.source_table(view.source)
        with table.lock():
            live = self._live_or_made(view)

            def check_first(rows: pl.DataFrame) -> None:
                assert live.maker.transform is not None
                with self._calling:
                    check_parity(live.view, live.maker.transform, rows)

            backfill = Backfill(view=live.view, source=source, table=table, pool=self._pool, clock=self._clock)
            backfill.run(inline=lambda rows: self._inline(live, rows), check_first=check_first, watch=watch)

    def _live_or_made(self, view: View) -> _Live:
        if view.version not in self._live:
            self._live[view.version] = _Live(view=view, maker=Maker(view), placement=Placement(view))
        return self._live[view.version]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Live:
    """A view version whose object this process has made."""

    view: View
    maker: Maker
    placement: Placement


def _as_read(view: View, rows: pl.DataFrame) -> pl.DataFrame:
    return make_rows(view, None, rows).with_columns(rows[BATCH]) if view.rows else rows


def check_columns(view: View, schema: Mapping[str, pl.DataType]) -> None:
    """Raises `InvalidInput` if the source, with these columns, cannot feed the view."""
    for key in view.keys:
        if _dtype(view, key, schema) not in KEY_TYPES:
            raise _unfit(view, key, schema, "as a key, which is text, an integer, or true or false")
    for window in view.windows:
        if window.column is not None and _dtype(view, window.column, schema) not in _NUMERIC:
            raise _unfit(view, window.column, schema, "as a number")
    for feature in view.rows if view.code is None else ():
        wanted = POLARS_TYPES[feature.dtype]
        if feature.column is not None and not fits(_dtype(view, feature.column, schema), wanted):
            raise _unfit(view, feature.column, schema, f"as {wanted}")


def _columns(view: View) -> list[str]:
    """What a view without a transform reads of its source."""
    features = [feature.column for feature in view.rows if feature.column is not None]
    return [*dict.fromkeys([*view.identity_columns(), ID, BATCH, *view.value_columns(), *features])]


def _dtype(view: View, column: str, schema: Mapping[str, pl.DataType]) -> pl.DataType:
    if column not in schema:
        raise InvalidInput(
            f"view {view.name!r} reads column {column!r}, and source {view.source.name!r} has {', '.join(schema)}"
        )
    return schema[column]


def _unfit(view: View, column: str, schema: Mapping[str, pl.DataType], wanted: str) -> InvalidInput:
    source = view.source.name
    return InvalidInput(
        f"view {view.name!r} reads column {column!r} {wanted}, and source {source!r} has it as {schema[column]}"
    )
