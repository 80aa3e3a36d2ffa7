"""One version of a Delta table of events: what it holds, and the commit that may follow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from mlplat.errors import Conflict, Unavailable

ID = "_id"
"""int64: identifies an event within its time."""
BATCH = "_batch"
"""int64: the table version that the row came with."""
_READ_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TableVersion:
    """The table at `at` as one handle sees it; `delta` is None where there is no table yet."""

    at: str
    options: Mapping[str, str]
    delta: DeltaTable | None

    @classmethod
    def newest(cls, at: str, options: Mapping[str, str]) -> TableVersion:
        try:
            delta = DeltaTable(at, storage_options=dict(options) or None)
        except TableNotFoundError:
            delta = None
        except (OSError, DeltaError) as error:
            raise Unavailable(f"table {_name(at)!r} at {at} cannot be read: {error}") from None
        return cls(at=at, options=options, delta=delta)

    def version(self) -> int:
        """The newest version; -1 while there is no table."""
        table = self.delta
        return -1 if table is None else table.version()

    def transaction(self, app: str) -> int:
        """The last version written by `app`; -1 if it never wrote."""
        table = self.delta
        found = None if table is None else table.transaction_version(app)
        return -1 if found is None else found

    def schema(self) -> Mapping[str, pl.DataType] | None:
        """Column types without the table's own columns; None while there is no table."""
        table = self.delta
        if table is None:
            return None
        frame = pl.from_arrow(pa.schema(table.schema().to_arrow()).empty_table())
        assert isinstance(frame, pl.DataFrame)
        return {name: dtype for name, dtype in frame.schema.items() if name not in (ID, BATCH)}

    def read(self, columns: list[str] | None = None, *, after_batch: int = -1) -> pl.DataFrame:
        """Rows whose batch is above `after_batch`, in no particular order; an empty frame while there is no table.

        Files of older batches are not opened.
        """
        table = self.delta
        if table is None:
            return pl.DataFrame()
        filters = [(BATCH, ">", after_batch)] if after_batch >= 0 else None
        frame = pl.from_arrow(table.to_pyarrow_table(columns=columns, filters=filters))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def scan(self, columns: list[str] | None = None, *, where: ds.Expression | None = None) -> Iterator[pl.DataFrame]:
        """The rows that `where` selects, in pieces."""
        if self.delta is None:
            return
        scanner = self.delta.to_pyarrow_dataset().scanner(
            columns=columns, filter=where, batch_readahead=2, fragment_readahead=1
        )
        for batch in scanner.to_batches():
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            if frame.height:
                yield frame

    def new_rows(self, rows: pl.DataFrame, identity: Sequence[str]) -> pl.DataFrame:
        """`rows` without those that the table has already and without repeats among themselves; the first of each
        stays. `identity` are the columns that tell events apart, the event time first."""
        fresh = rows.unique(subset=identity, keep="first", maintain_order=True)
        present = self.present(fresh.select(identity))
        return fresh.join(present, on=identity, how="anti", maintain_order="left")

    def present(self, identities: pl.DataFrame) -> pl.DataFrame:
        """Those of `identities` (the event time first) that the table has.

        Only these columns are read, of files that may have their times, and never more than a piece of them at once.
        """
        table = self.delta
        if table is None or identities.is_empty():
            return identities.clear()
        names, time = identities.columns, ds.field(identities.columns[0])
        low, high = (pa.scalar(end, pa.timestamp("us", "UTC")) for end in _ends(identities.to_series(0)))
        within = (time >= low) & (time <= high)
        batches = table.to_pyarrow_dataset().scanner(columns=names, filter=within, batch_size=_READ_ROWS).to_batches()
        found = [identities.clear()]
        for batch in _together(batches):
            held = pl.from_arrow(batch)
            assert isinstance(held, pl.DataFrame)
            found.append(held.cast(pl.Schema(identities.schema)).join(identities, on=names, how="semi"))
        return pl.concat(found).unique()

    def span(self, time: str) -> tuple[datetime, datetime] | None:
        """The first and the last event time; None without events."""
        low = high = None
        table = self.delta
        for batch in () if table is None else table.to_pyarrow_dataset().to_batches(columns=[time]):
            if batch.num_rows:
                first, last = _ends(pl.Series(batch.column(0)))
                low, high = min(low or first, first), max(high or last, last)
        return None if low is None or high is None else (low, high)

    def rows(self) -> int:
        return sum(self._files("num_records"))

    def file_sizes(self) -> list[int]:
        """Bytes of every file of this version."""
        return self._files("size_bytes")

    def _files(self, column: str) -> list[int]:
        if self.delta is None:
            return []
        found: list[int] = pa.table(self.delta.get_add_actions(flatten=True)).column(column).to_pylist()
        return found

    def history(self) -> list[tuple[int, datetime, str]]:
        """Version, moment and operation of every commit that is still known, oldest first."""
        table = self.delta
        return [
            (entry["version"], datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=entry["timestamp"]), entry["operation"])
            for entry in reversed([] if table is None else table.history())
        ]  # fmt: skip

    def compact(self) -> None:
        if self.delta is not None:
            with self._told():
                self.delta.optimize.compact(commit_properties=CommitProperties(max_commit_retries=0))

    def delete_before(self, time: str, moment: datetime) -> int:
        """How many rows it took out."""
        if self.delta is None:
            return 0
        text = moment.astimezone(UTC).isoformat()
        where = f"\"{time}\" < arrow_cast('{text}', 'Timestamp(Microsecond, Some(\"UTC\"))')"
        with self._told():
            done: dict[str, Any] = self.delta.delete(where, commit_properties=CommitProperties(max_commit_retries=0))
        return int(done["num_deleted_rows"])

    def commit(self, schema: pa.Schema, frames: Iterable[pl.DataFrame], *, ids: Mapping[str, int]) -> int:
        """Append `frames`, of columns `schema`, as the next version, or fail: `Conflict` if there is one already. `ids` are
        what the transactions of its writers have come to."""
        version = self.version() + 1
        stamp = pl.lit(version, dtype=pl.Int64).alias(BATCH)
        schema = schema.append(pa.field(BATCH, pa.int64()))
        batches = (
            batch
            for frame in frames
            for batch in frame.with_columns(stamp).to_arrow(compat_level=_PLAIN).cast(schema).to_batches()
        )
        known = None if self.delta is None else {field.name for field in self.delta.schema().fields}
        with self._told():
            write_deltalake(
                self.at if self.delta is None else self.delta,
                pa.RecordBatchReader.from_batches(schema, batches),
                # "append" would follow a table that another writer has just made.
                mode="error" if self.delta is None else "append",
                schema_mode=None if known is None or set(schema.names) <= known else "merge",
                storage_options=dict(self.options) or None,
                commit_properties=CommitProperties(
                    max_commit_retries=0,
                    app_transactions=[Transaction(app_id=app, version=number) for app, number in ids.items()],
                ),
            )
        return version

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except CommitFailedError as error:
            raise Conflict(f"table {_name(self.at)!r}: another writer was first: {error}") from None
        except (OSError, DeltaError) as error:
            if "already exists" in str(error):
                raise Conflict(f"table {_name(self.at)!r}: another writer was first: {error}") from None
            raise Unavailable(
                f"table {_name(self.at)!r} at {self.at} cannot be written and is unchanged: {error}"
            ) from None


_PLAIN = pl.CompatLevel.oldest()


def arrow_schema(rows: pl.DataFrame) -> pa.Schema:
    return rows.clear().to_arrow(compat_level=_PLAIN).schema


def _name(at: str) -> str:
    return at.rstrip("/").rpartition("/")[2]


def _ends(times: pl.Series) -> tuple[datetime, datetime]:
    low, high = times.min(), times.max()
    assert isinstance(low, datetime)
    assert isinstance(high, datetime)
    return low, high


def _together(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches in tables of about a piece's rows."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(b.num_rows for b in held) >= _READ_ROWS:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)
