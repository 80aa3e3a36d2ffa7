"""A point-in-time join block by block, in any process: pinned views over the tables as they were at one moment. However the
rows are cut into blocks, each gets the features that one join of all would give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mlplat.features import bucket_join, offline
from mlplat.features.bucket_tasks import Rows, one_by_one
from mlplat.features.buckets import MIB, Size, fits, made_bytes, plan_for
from mlplat.features.definitions import AnyView, View
from mlplat.features.derived_views import DerivedViews
from mlplat.features.registry import Registry

_READ_ROWS = 2**16
LEAST_BYTES = 256 * MIB
"""What a join of blocks may always take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """`views`, and where the rows of the stored ones among them and below them lie, by version; None: there are none yet.
    Goes from process to process."""

    home: Path
    views: tuple[AnyView, ...]
    rows: Mapping[str, Rows | None]


class PinnedJoin:
    """Joins in about `memory` bytes. A view's rows are read once and kept where they fit; others are joined in buckets on
    disk, block by block."""

    def __init__(self, pins: Pins, *, memory: int) -> None:
        self._pins = pins
        self._left = max(memory, LEAST_BYTES)
        self._derived = DerivedViews(Registry(pins.home / "features"))
        self._kept: dict[str, pl.DataFrame] = {}
        self._sizes: dict[str, Size] = {}

    def __call__(self, frame: pl.DataFrame, *, time: str) -> pl.DataFrame:
        """`frame` with a column `view.feature` for each feature, as of `time`: timestamp[us, UTC] without nulls."""
        offline.check(frame, self._pins.views)

        def stored(view: View) -> list[pl.Series]:
            return self._columns(frame, view, time)

        return frame.hstack(self._derived.columns(frame, self._pins.views, time=time, stored=stored))

    def _columns(self, frame: pl.DataFrame, view: View, time: str) -> list[pl.Series]:
        rows = self._pins.rows[view.version]
        if rows is None:
            return _joined(frame, view, time, offline.empty_rows(view, {key: frame.schema[key] for key in view.keys}))
        if self._fits(rows, frame.height):
            return _joined(frame, view, time, self._kept[view.version])
        labels = frame.select(list(dict.fromkeys([*view.keys, time])))
        plan = plan_for(
            view,
            self._sizes[view.version],
            labels=labels.height,
            labels_bytes=int(labels.estimated_size()),
            limit=self._left,
            workers=1,
        )
        return bucket_join.columns(labels, rows, time=time, plan=plan, root=self._pins.home / "tmp", run=one_by_one)

    def _fits(self, rows: Rows, labels: int) -> bool:
        """Whether the view's rows are kept. They are if there is room when they are first asked for."""
        version = rows.view.version
        if version not in self._sizes:
            size = self._sizes[version] = rows.size()
            if fits(size, made=made_bytes([rows.view], labels), limit=self._left):
                self._kept[version] = pl.concat(
                    [pl.DataFrame(schema=rows.schema()), *rows.frames(rows=_READ_ROWS)], rechunk=True
                )
                self._left -= size.bytes
        return version in self._kept


def _joined(frame: pl.DataFrame, view: View, time: str, rows: pl.DataFrame) -> list[pl.Series]:
    return offline.columns(frame, view, time=time, rows_of=lambda _: rows, known_us=None)
