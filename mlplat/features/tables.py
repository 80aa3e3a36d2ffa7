"""Delta tables of events, in a folder or at the URL of an object store: append-only, exactly once per transaction id.

Every commit is made on the version that was read, or fails: nothing can come between what a writer has seen and what it
writes. Writers of one machine take turns by `lock()`; on an object store the commit itself, which puts a file only if it
is not there, lets one of them win, and the other reads again.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from mlplat.errors import Conflict
from mlplat.features.table_version import BATCH, ID, TableVersion, arrow_schema

__all__ = ["BATCH", "ID", "EventTable", "locked"]

_TRIES = 20

Fresh = Callable[[TableVersion], tuple[pa.Schema, Iterable[pl.DataFrame]] | None]
"""What of a batch a version of a table lacks; None if it lacks nothing."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among threads and processes of this machine. The system releases it when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class EventTable:
    """One Delta table. Methods that write are called with `lock()` held.

    `at` is a folder, or a URL with `options` for its object store, as `object_store.table_at` makes it.
    """

    def __init__(self, at: Path | str, options: Mapping[str, str] | None = None) -> None:
        self.at = str(at)
        self._options = dict(options or {})

    @property
    def path(self) -> Path:
        """Of a table on this machine."""
        return Path(self.at)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Among the writers of this machine. A table at a URL needs none: there a commit that comes second fails."""
        if "://" in self.at:
            yield
        else:
            with locked(Path(self.at + ".lock")):
                yield

    def now(self) -> TableVersion:
        """The newest version."""
        return TableVersion.newest(self.at, self._options)

    def version(self) -> int:
        """The newest version; -1 while there is no table."""
        return self.now().version()

    def transaction(self, app: str) -> int:
        """The last version written by `app`; -1 if it never wrote."""
        return self.now().transaction(app)

    def schema(self) -> Mapping[str, pl.DataType] | None:
        """Column types without the table's own columns; None while there is no table."""
        return self.now().schema()

    def read(self, columns: list[str] | None = None, *, after_batch: int = -1) -> pl.DataFrame:
        """Rows whose batch is above `after_batch`, in no particular order; an empty frame while there is no table."""
        return self.now().read(columns, after_batch=after_batch)

    def height(self) -> int:
        """The number of rows, out of the table's log alone."""
        return self.now().rows()

    def scan(self, columns: list[str] | None = None, *, where: ds.Expression | None = None) -> Iterator[pl.DataFrame]:
        """The rows that `where` selects, in pieces, so that a table larger than memory can be read."""
        return self.now().scan(columns, where=where)

    def append(self, rows: pl.DataFrame, *, app: str, number: int) -> int:
        """Append with the transaction id (app, number) and return the new version. The rows get it as their batch.

        If `app` has written `number` already, nothing is added. Raises `Conflict` if another writer was first.
        """
        now = self.now()
        if now.transaction(app) >= number:
            return now.version()
        return now.commit(arrow_schema(rows), [rows], ids={app: number})

    def add(self, fresh: Fresh, *, app: str | None = None, number: int = 0) -> int:
        """Append what a batch has and the table lacks, and return the version after it; with `app` once per (app, number).

        `fresh` is asked about the newest version, and asked again if another writer came first.
        """
        for _ in range(_TRIES):
            now = self.now()
            done = app is not None and now.transaction(app) >= number
            lacking = None if done else fresh(now)
            if lacking is None:
                return now.version()
            try:
                return now.commit(*lacking, ids={} if app is None else {app: number})
            except Conflict:
                continue
        raise Conflict(f"table at {self.at}: other writers were first {_TRIES} times: ingest the batch again")

    def compact(self) -> None:
        """Few large files for many small ones. No row changes, nor its batch."""
        self.now().compact()

    def delete_before(self, time: str, moment: datetime) -> int:
        """Take out the events before `moment`, and the files that are a week out of use; how many rows there were."""
        deleted = self.now().delete_before(time, moment)
        if self.version() >= 0:
            DeltaTable(self.at, storage_options=self._options or None).vacuum(dry_run=False)
        return deleted
