"""A batch on its way in: checked piece by piece, kept outside memory when it is large, so that it lands wholly or not at
all."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow as pa

from mlplat.errors import BatchRefused, Problem
from mlplat.features.definitions import Source
from mlplat.features.quarantine import BadRow, as_text
from mlplat.features.read_data import frames
from mlplat.features.table_version import ID, TableVersion, arrow_schema
from mlplat.features.validate import SHOWN, Checked, check, with_ids

# So many identities of a batch are compared at once.
BUCKET_ROWS = 4_000_000


class Staged:
    """Rows in normal form, in order. The first piece stays in memory; more go to a file without a name, which is gone
    with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first: pl.DataFrame | None = None
        self._file: Any = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self._digest = hashlib.blake2b(digest_size=16)
        self.rows = 0

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def content(self) -> str:
        """A hash of all that was added, and of what was `noted`."""
        return self._digest.hexdigest()

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        assert self._first is not None
        return {name: dtype for name, dtype in self._first.schema.items() if name != ID}

    def note(self, raw: bytes) -> None:
        self._digest.update(raw)

    def add(self, frame: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        frame.write_ipc(buffer)
        self._digest.update(buffer.getbuffer())
        self.rows += frame.height
        if self._first is None:
            self._first = frame
            return
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed on exit
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), self.arrow_schema)
        self._writer.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self.arrow_schema))

    @property
    def arrow_schema(self) -> pa.Schema:
        assert self._first is not None
        return arrow_schema(self._first)

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """The pieces in order; with `columns`, nothing else is read."""
        assert self._first is not None
        yield self._first if columns is None else self._first.select(columns)
        if self._writer is not None:
            self._writer.close()
            self._file.flush()
            wanted = None if columns is None else [self.arrow_schema.get_field_index(name) for name in columns]
            options = pa.ipc.IpcReadOptions(included_fields=wanted)
            reader = pa.ipc.open_file(pa.PythonFile(self._file, "r"), options=options)
            for at in range(reader.num_record_batches):
                frame = pl.from_arrow(reader.get_batch(at))
                assert isinstance(frame, pl.DataFrame)
                yield frame if columns is None else frame.select(columns)

    def fresh(self, table: TableVersion, identity: Sequence[str]) -> tuple[pl.Series, int]:
        """Per row, whether it is the first of its `identity` and the table has it not; and how many are.

        Identities are compared bucket by bucket, so that a large batch needs a bounded part of them in memory.
        """
        buckets = 1 + self.rows // BUCKET_ROWS
        found: list[pl.Series] = []
        for bucket in range(buckets):
            mine = self._identities(identity, bucket, buckets).unique(
                subset=identity, keep="first", maintain_order=True
            )
            known = table.present(mine.select(identity))
            found.append(mine.join(known, on=identity, how="anti")["_row"])
        positions = pl.concat(found)
        marks = pl.repeat(False, self.rows, eager=True).scatter(positions, True)  # noqa: FBT003
        return marks, len(positions)

    def _identities(self, identity: Sequence[str], bucket: int, buckets: int) -> pl.DataFrame:
        first, parts = 0, []
        for frame in self.frames(identity):
            part = frame.with_row_index("_row", offset=first)
            parts.append(part if buckets == 1 else part.filter(pl.col(ID) % buckets == bucket))
            first += frame.height
        return pl.concat(parts)

    def marked(self, marks: pl.Series) -> Iterator[pl.DataFrame]:
        first = 0
        for frame in self.frames():
            yield frame.filter(marks.slice(first, frame.height))
            first += frame.height


class Stage:
    """Checks the pieces of a batch one by one into a `Staged`."""

    def __init__(
        self, source: Source, schema: Mapping[str, pl.DataType] | None, *, add_columns: bool, set_aside: bool
    ) -> None:
        self._source = source
        self._schema = schema
        self._add = add_columns
        self._set_aside = set_aside
        self._problems: dict[tuple[str, str], Problem] = {}
        self.bad: list[BadRow] = []

    def read(self, data: Any, staged: Staged) -> None:
        """Raises `BatchRefused` with all that is wrong in all of `data`, unless bad rows are set aside."""
        first = 0
        for frame in frames(data):
            found = check(self._source, frame, self._schema, add_columns=self._add, read_text=self._set_aside)
            if all(finding.bad is not None for finding in found.findings) and (self._set_aside or not found.findings):
                good = self._apart(found, frame, first, staged) if found.findings else found.frame
                if not self._problems:
                    staged.add(with_ids(self._source, good))
                    self._schema, self._add = staged.schema, False
            else:
                self._tell(found, first)
            first += frame.height
        if self._problems:
            raise BatchRefused(f"source {self._source.name!r}", list(self._problems.values()))

    def _apart(self, found: Checked, given: pl.DataFrame, first: int, staged: Staged) -> pl.DataFrame:
        bad = found.bad()
        for at in bad.arg_true().to_list():
            row = as_text(given.row(at, named=True))
            staged.note(row.encode())
            self.bad.append(BadRow(position=first + at, reason="; ".join(found.reasons(at)), row=row))
        return found.frame.filter(~bad)

    def _tell(self, found: Checked, first: int) -> None:
        """One problem for the same thing in several pieces."""
        for finding in found.findings:
            new = finding.problem(first)
            known = self._problems.get((new.field, new.message), Problem(field=new.field, message=new.message))
            self._problems[new.field, new.message] = Problem(
                field=new.field,
                message=new.message,
                rows=(*known.rows, *new.rows)[:SHOWN],
                count=known.count + new.count,
            )
