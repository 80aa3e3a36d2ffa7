"""The rows that a view's features are read from: columns of its source, or what its transform made of the source's
rows.

Made rows are kept in a table of the view version, and made only for events that it has not seen.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.definitions import Source, View
from mlplat.features.parity import check_parity
from mlplat.features.tables import BATCH, ID, EventTable
from mlplat.features.transform import POLARS_TYPES, Transform, fits, instance, make_rows
from mlplat.features.validate import KEY_TYPES

INLINE_ROWS = 1_000
"""Up to so many rows are made in this process: starting actors would take longer."""
Pool = Callable[[View, pl.DataFrame], pl.DataFrame]
"""Makes a view's rows of the source's rows on an actor pool."""

_NUMERIC = (pl.Float64(), pl.Int64(), pl.Boolean())


class ViewRows:
    """The tables of one home as views see them, and the transforms whose code this process has. Thread-safe."""

    def __init__(self, home: Path, pool: Pool) -> None:
        self._home = home
        self._pool = pool
        self._live: dict[str, tuple[View, Transform | None]] = {}
        self._calling = threading.Lock()

    def source_table(self, source: Source) -> EventTable:
        return EventTable(self._home / "tables" / "sources" / source.name)

    def view_table(self, view: View) -> EventTable:
        return EventTable(self._home / "tables" / "views" / f"{view.name}@{view.version}")

    def use(self, view: View) -> None:
        """Remember a view's code, which only this process has."""
        if view.version not in self._live:
            self._live[view.version] = (view, instance(view))

    def can_make(self, view: View) -> bool:
        return view.code is None or view.module is not None or view.version in self._live

    def forget(self, view: View) -> None:
        """Delete what was made for a version that is retired."""
        self._live.pop(view.version, None)
        table = self.view_table(view)
        with table.lock():
            shutil.rmtree(table.path, ignore_errors=True)

    def make(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of the view, here and now. One call of a user's code at a time: it need not be thread-safe."""
        known, transform = self._live_or_refused(view)
        with self._calling:
            return make_rows(known, transform, rows)

    def of(self, view: View, *, after_batch: int = -1) -> pl.DataFrame:
        """All rows, or those that came after a batch, once those of the newest events are made.

        An empty frame without columns if there is no table yet. Raises `InvalidInput` for a column that the source
        has not.
        """
        schema = self.source_table(view.source).schema()
        if schema is None:
            return pl.DataFrame()
        check_columns(view, schema)
        if view.code is not None:
            self._materialize(view)
            return self.view_table(view).read(after_batch=after_batch)
        columns = [*view.identity_columns(), ID, BATCH, *view.value_columns(), *_columns(view)]
        rows = self.source_table(view.source).read([*dict.fromkeys(columns)], after_batch=after_batch)
        return make_rows(view, None, rows).with_columns(rows[BATCH]) if view.rows else rows

    def _materialize(self, view: View) -> None:
        """Append the rows of the events that the view has not seen. Parity is checked before its first rows."""
        table, source = self.view_table(view), self.source_table(view.source)
        with table.lock():
            done = table.transaction("source")
            if source.version() <= done:
                return
            rows = source.read(after_batch=done)
            if rows.is_empty():
                return
            known, transform = self._live_or_refused(view)
            assert transform is not None
            if done < 0:
                with self._calling:
                    check_parity(known, transform, rows)
            made = self.make(view, rows) if rows.height <= INLINE_ROWS else self._pool(known, rows)
            newest = rows[BATCH].max()
            assert isinstance(newest, int)
            table.append(made, app="source", number=newest)

    def _live_or_refused(self, view: View) -> tuple[View, Transform | None]:
        return self._live.get(view.version) or (view, instance(view))


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
    return [feature.column for feature in view.rows if feature.column is not None]


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
