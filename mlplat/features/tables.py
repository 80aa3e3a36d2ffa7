"""Delta tables of events: append-only, exactly once per transaction id, one writer at a time on one machine."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from mlplat.errors import Unavailable

ID = "_id"
"""int64: identifies an event within its time."""
BATCH = "_batch"
"""int64: the table version that the row came with."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among threads and processes of this machine. The system releases it when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class EventTable:
    """One Delta table. Methods that write are called with `lock()` held."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def lock(self) -> Iterator[None]:
        with locked(self.path.with_name(self.path.name + ".lock")):
            yield

    def version(self) -> int:
        """The newest version; -1 while there is no table."""
        table = self._open()
        return -1 if table is None else table.version()

    def transaction(self, app: str) -> int:
        """The last version written by `app`; -1 if it never wrote."""
        table = self._open()
        found = None if table is None else table.transaction_version(app)
        return -1 if found is None else found

    def schema(self) -> Mapping[str, pl.DataType] | None:
        """Column types without the table's own columns; None while there is no table."""
        table = self._open()
        if table is None:
            return None
        frame = pl.from_arrow(pa.schema(table.schema().to_arrow()).empty_table())
        assert isinstance(frame, pl.DataFrame)
        return {name: dtype for name, dtype in frame.schema.items() if name not in (ID, BATCH)}

    def append(self, rows: pl.DataFrame, *, app: str, number: int, also: Mapping[str, int] | None = None) -> int:
        """Append with the transaction id (app, number), and `also` further ones, and return the new version. The rows get
        it as their batch."""
        ids = {app: number, **(also or {})}
        version = self.version() + 1
        frame = rows.with_columns(pl.lit(version, dtype=pl.Int64).alias(BATCH))
        try:
            write_deltalake(
                str(self.path),
                frame.to_arrow(compat_level=pl.CompatLevel.oldest()),
                mode="append",
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(app_id=name, version=value) for name, value in ids.items()]
                ),
            )
        except (OSError, DeltaError) as error:
            raise Unavailable(
                f"table {self.path.name!r} at {self.path} cannot be written and is unchanged: {error}"
            ) from None
        return version

    def read(self, columns: list[str] | None = None, *, after_batch: int = -1) -> pl.DataFrame:
        """Rows whose batch is above `after_batch`, in no particular order; an empty frame while there is no table."""
        table = self._open()
        if table is None:
            return pl.DataFrame()
        filters = [(BATCH, ">", after_batch)] if after_batch >= 0 else None
        frame = pl.from_arrow(table.to_pyarrow_table(columns=columns, filters=filters))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def height(self) -> int:
        """The number of rows, out of the table's log alone."""
        table = self._open()
        return 0 if table is None else sum(pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist())

    def scan(self, columns: list[str] | None = None, *, where: ds.Expression | None = None) -> Iterator[pl.DataFrame]:
        """The rows that `where` selects, in pieces of a file at most, so that a table larger than memory can be read."""
        table = self._open()
        if table is None:
            return
        scanner = table.to_pyarrow_dataset().scanner(
            columns=columns, filter=where, batch_readahead=2, fragment_readahead=1
        )
        for batch in scanner.to_batches():
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            if frame.height:
                yield frame

    def new_rows(self, rows: pl.DataFrame, time: str) -> pl.DataFrame:
        """`rows` without those that the table has already and without repeats among themselves; the first of each
        stays."""
        fresh = rows.unique(subset=[time, ID], keep="first", maintain_order=True)
        table = self._open()
        if table is None or fresh.is_empty():
            return fresh
        span = [(time, ">=", fresh[time].min()), (time, "<=", fresh[time].max())]
        present = pl.from_arrow(table.to_pyarrow_table(columns=[time, ID], filters=span))
        assert isinstance(present, pl.DataFrame)
        return fresh.join(present.cast({time: fresh.schema[time]}), on=[time, ID], how="anti", maintain_order="left")

    def _open(self) -> DeltaTable | None:
        try:
            return DeltaTable(str(self.path))
        except TableNotFoundError:
            return None
