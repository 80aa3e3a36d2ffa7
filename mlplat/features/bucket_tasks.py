"""The steps of a join in buckets: scatter a part of the rows, join a bucket. Each runs in any process of the machine and
leaves its result in files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from mlplat.features import bucket_files as files
from mlplat.features import offline
from mlplat.features.buckets import MIB, Ints, Plan, Size, bucket_of, cuts, still_seen, stretch_of
from mlplat.features.definitions import View
from mlplat.features.table_scan import Snapshot
from mlplat.features.tables import ID, EventTable
from mlplat.features.transform import make_rows, stored

AT = "_at"
"""The position of a label among all labels."""
_SAMPLE = 100_000
_LOG = logging.getLogger(__name__)


class Task(Protocol):
    """A step that leaves its result in files of its own; it may be run again after its process died."""

    def __call__(self) -> None: ...


Run = Callable[[Sequence[Task], int], None]
"""Runs tasks, at most so many at once, and returns when all are done. Their order does not matter. Raises what one of
them raised."""


def one_by_one(tasks: Sequence[Task], workers: int) -> None:
    """In this process."""
    for task in tasks:
        task()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Where a view's rows lie: a version of its source's table, or, of a transform, of its own."""

    view: View
    table: Snapshot

    @classmethod
    def of(cls, view: View, table: EventTable) -> Rows:
        """`table` has the view's rows up to now. The user's class stays here: other processes need it not."""
        return cls(view=replace(view, transform=None), table=Snapshot.of(table))

    def columns(self) -> list[str]:
        view = self.view
        values = [f.name if view.code is not None else str(f.column) for f in stored(view)]
        return list(dict.fromkeys([*view.identity_columns(), ID, *view.value_columns(), *values]))

    def frames(self, *, rows: int, share: tuple[int, int] = (0, 1)) -> Iterator[pl.DataFrame]:
        """The rows as a join takes them, at most so many at a time; `share` (i, n) is one part of n."""
        return map(self._shaped, self.table.scan(self.columns(), rows=rows, share=share))

    def schema(self) -> Mapping[str, pl.DataType]:
        types = self.table.schema()
        return self._shaped(pl.DataFrame(schema={name: types[name] for name in self.columns()})).schema

    def size(self) -> Size:
        return Size.of(self.table.rows(), self.schema())

    def _shaped(self, frame: pl.DataFrame) -> pl.DataFrame:
        return make_rows(self.view, None, frame) if self.view.rows and self.view.code is None else frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Share number `share` of the table's rows, over the buckets."""

    rows: Rows
    plan: Plan
    folder: Path
    share: int

    def __call__(self) -> None:
        buckets = range(self.plan.buckets)
        frames = self.rows.frames(rows=self.plan.batch_rows, share=(self.share, self.plan.workers))
        paths = [self.folder / f"rows-{bucket}-{self.share}" for bucket in buckets]
        files.scatter(frames, partial(bucket_numbers, self.rows.view.keys, self.plan.buckets), paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinBucket:
    """The features of one bucket's labels, with the labels' positions."""

    rows: Rows
    plan: Plan
    folder: Path
    bucket: int
    time: str
    known_us: int | None

    def __call__(self) -> None:
        labels = pl.concat(files.batches([self.folder / f"labels-{self.bucket}"]))
        paths = [self.folder / f"rows-{self.bucket}-{share}" for share in range(self.plan.workers)]
        bytes_ = sum(path.stat().st_size for path in paths if path.exists())
        stretches = -(-bytes_ // self.plan.bucket_bytes)
        parts = self._cut(paths, labels, int(stretches)) if stretches > 1 else [(self._whole(paths), labels)]
        made = (self._joined(rows, piece) for rows, asked in parts for piece in asked.iter_slices(self.plan.label_rows))
        files.scatter(made, lambda frame: np.zeros(frame.height, dtype=np.int64), [self._path("made")])

    def _joined(self, rows: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
        view = self.rows.view
        columns = offline.columns(labels, view, time=self.time, rows_of=lambda _: rows, known_us=self.known_us)
        return pl.DataFrame([labels[AT], *columns])

    def _cut(
        self, paths: list[Path], labels: pl.DataFrame, stretches: int
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Stretches of time, each with the rows before it that its labels may see."""
        view, folder = self.rows.view, self._path("cut")
        time = view.source.time
        every = max(sum(frame.height for frame in files.batches(paths)) // _SAMPLE, 1)
        moments = cuts(
            np.concatenate([_us(frame.gather_every(every), time) for frame in files.batches(paths)]), stretches
        )
        folder.mkdir(exist_ok=True)
        parts = [folder / str(number) for number in range(len(moments) + 1)]
        files.scatter(files.batches(paths), lambda frame: stretch_of(_us(frame, time), moments), parts)
        asked = stretch_of(_us(labels, self.time), moments)
        before = pl.DataFrame(schema=self.rows.schema())
        for number, part in enumerate(parts):
            rows = pl.concat([before, self._whole([part])])
            self._warn_if_large(rows)
            yield rows, labels.filter(asked == number)
            if number < len(moments):
                before = still_seen(view, rows, int(moments[number]), known_us=self.known_us)
        shutil.rmtree(folder)

    def _warn_if_large(self, rows: pl.DataFrame) -> None:
        if (size := rows.estimated_size()) > 2 * self.plan.bucket_bytes:
            _LOG.warning(
                "view %r: rows of %d MiB must be joined at once, and memory was planned for %d MiB: they are of one time, or "
                "within one window",
                self.rows.view.name, size // MIB, self.plan.bucket_bytes // MIB,
            )  # fmt: skip

    def _whole(self, paths: list[Path]) -> pl.DataFrame:
        return files.whole(paths, self.rows.schema())

    def _path(self, kind: str) -> Path:
        return self.folder / f"{kind}-{self.bucket}"


def bucket_numbers(keys: tuple[str, ...], buckets: int, frame: pl.DataFrame) -> Ints:
    return bucket_of(frame.select(keys), buckets)


def _us(frame: pl.DataFrame, time: str) -> Ints:
    return frame[time].to_physical().to_numpy()
