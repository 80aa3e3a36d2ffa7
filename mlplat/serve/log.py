"""The prediction log: what was asked, with which features, what was answered, and why by that arm.

Appending never waits: records go to a bounded buffer, and one thread writes them as Parquet files. What does not fit is
dropped and counted.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlplat.errors import InvalidInput, Unavailable
from mlplat.model.signature import ARROW, Field, Signature

_TIME = ARROW["timestamp"]
_OWN = (
    ("prediction_id", pa.string()),
    ("request_id", pa.string()),
    ("at", _TIME),
    ("received_at", _TIME),
    ("model", pa.string()),
    ("version", pa.int64()),
    ("digest", pa.string()),
    ("arm", pa.string()),
    ("propensity", pa.float64()),
    ("instead", pa.string()),
    ("shadow", pa.bool_()),
    ("cached", pa.bool_()),
    ("unit", pa.string()),
    ("latency_us", pa.int64()),
    ("features_us", pa.int64()),
    ("predict_us", pa.int64()),
)
_OWN_NAMES = frozenset(name for name, _ in _OWN)
_log = logging.getLogger(__name__)


Line = tuple[Any, ...]
"""A row's values in the order of the log's columns. A tuple of plain values: the garbage collector lets it alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Rows of one request, for the log of `name`."""

    name: str
    schema: pa.Schema
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Rows since the start: `appended == written + dropped + waiting`."""

    appended: int
    written: int
    dropped: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The log's columns for a model: who answered and when, then the entity keys and request fields (`asked`), `view.field`
    (`features`), `status.view` (`views`) and `output.name` (`outputs`). A request field named as one of the log's own columns is
    called `request.name`."""

    schema: pa.Schema
    asked: tuple[str, ...]
    features: tuple[str, ...]
    views: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, signature: Signature) -> Layout:
        """`InvalidInput` if a view is named so that two columns would be the same."""
        asked, refs = _asked(signature), signature.features
        features = [(column, f.dtype) for ref in refs for column, f in zip(ref.columns(), ref.fields, strict=True)]
        schema = pa.schema(
            [
                *_OWN,
                *((asked_column(f.name), ARROW[f.dtype]) for f in asked),
                *((column, ARROW[dtype]) for column, dtype in features),
                *((f"status.{ref.view}", pa.string()) for ref in refs),
                *((f"output.{f.name}", ARROW[f.dtype]) for f in signature.outputs),
            ]
        )
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise InvalidInput(
                f"the prediction log would have the column {twice[0]!r} twice: rename the view or the field"
            )
        return cls(
            schema=schema,
            asked=tuple(f.name for f in asked),
            features=tuple(column for column, _ in features),
            views=tuple(ref.view for ref in refs),
            outputs=tuple(f.name for f in signature.outputs),
        )


def asked_column(name: str) -> str:
    """The log's column for an entity key or request field."""
    return f"request.{name}" if name in _OWN_NAMES else name


def _asked(signature: Signature) -> Sequence[Field]:
    return tuple({f.name: f for f in (*signature.entities, *signature.request)}.values())


class PredictionLog:
    """Writes under HOME/log/NAME at least every `every_s` seconds or `every_rows` rows. Thread-safe.

    Files appear whole or not at all. If the disk refuses, records stay in the buffer and are tried again; `flush`
    then raises `Unavailable`. A process that is killed loses at most what one interval holds.
    """

    def __init__(
        self, home: Path, *, every_s: float = 1.0, every_rows: int = 1_000, capacity_rows: int = 100_000
    ) -> None:
        self._folder = home / "log"
        self._every_s = every_s
        self._every_rows = every_rows
        self._capacity = capacity_rows
        self._waiting: deque[Record] = deque()
        self._appended = self._written = self._dropped = self._rows = 0
        self._failure: OSError | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._writing = threading.Lock()  # one writer at a time: the thread, or a caller of flush
        self._files = 0
        self._prefix = secrets.token_hex(4)  # several replicas write into one folder
        self._thread = threading.Thread(target=self._run, name="mlplat-log", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Never waits for the disk, never raises for a full buffer: the record is dropped and counted."""
        rows = len(record.lines)
        with self._changed:
            self._appended += rows
            if self._closed or self._rows + rows > self._capacity:
                self._dropped += rows
                return
            self._waiting.append(record)
            self._rows += rows
            if self._rows >= self._every_rows:
                self._changed.notify()

    def flush(self) -> None:
        """Returns when everything appended before is in files."""
        self._write()
        if self._failure is not None:
            raise Unavailable(f"the prediction log in {self._folder} cannot be written: {self._failure}")

    def counters(self) -> Counters:
        with self._changed:
            return Counters(appended=self._appended, written=self._written, dropped=self._dropped, waiting=self._rows)

    def close(self) -> None:
        """Write what is left and stop. What is appended later is dropped and counted."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._rows >= self._every_rows, timeout=self._every_s)
                closed = self._closed
            self._write()
            if closed:
                return
            if self._failure is not None:
                with self._changed:  # a full buffer would wake this thread at once, again and again
                    self._changed.wait_for(lambda: self._closed, timeout=self._every_s)

    def _write(self) -> None:
        with self._writing:
            with self._changed:
                batch, self._waiting = self._waiting, deque()
            self._failure = None
            for records in _grouped(batch):
                self._write_group(records)

    def _write_group(self, records: Sequence[Record]) -> None:
        rows = sum(len(record.lines) for record in records)
        try:
            self._write_file(records)
        except OSError as error:
            self._failure = error
            with self._changed:
                self._waiting.extendleft(reversed(records))
        except (ValueError, TypeError):  # values that are none of their column's type: trying again cannot help
            _log.exception("%d predictions of %r cannot be logged and are dropped", rows, records[0].name)
            with self._changed:
                self._rows -= rows
                self._dropped += rows
        else:
            with self._changed:
                self._rows -= rows
                self._written += rows

    def _write_file(self, records: Sequence[Record]) -> None:
        schema = records[0].schema
        folder = self._folder / records[0].name
        folder.mkdir(parents=True, exist_ok=True)
        by_column = zip(*chain.from_iterable(record.lines for record in records), strict=True)
        columns = [pa.array(values, type=f.type) for f, values in zip(schema, by_column, strict=True)]
        received = columns[schema.get_field_index("received_at")].cast(pa.int64())[0].as_py()
        path = folder / f"{received:020d}-{self._prefix}-{self._files:06d}.parquet"
        self._files += 1
        draft = path.with_suffix(".draft")
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), draft, write_statistics=False)  # nobody skips rows
        draft.replace(path)


def read_log(home: Path, name: str) -> pa.Table:
    """Every row that was logged under a name, in the order of arrival; no columns if there is none."""
    tables = [pq.read_table(path) for path in sorted((home / "log" / name).glob("*.parquet"))]
    if not tables:
        return pa.table({})
    return pa.concat_tables(tables, promote_options="permissive").sort_by([("received_at", "ascending")])


def _grouped(batch: Iterable[Record]) -> list[list[Record]]:
    """A file holds one name and one schema: versions of a model may read different features."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in batch:
        groups.setdefault((record.name, id(record.schema)), []).append(record)
    return list(groups.values())
