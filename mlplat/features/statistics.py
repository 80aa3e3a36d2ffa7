"""Statistics of the tables of a home, kept with the data: sketches of the columns by span of event time, brought up to
date from the batches that came since.

One file per table. It names the last batch that it counts and is replaced as a whole, so a batch counts once, whatever is
killed. It is bounded by its spans and by the size of a sketch, not by the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl

from mlplat.disk import write_atomically
from mlplat.features.spans import DAY_US, Span, with_days
from mlplat.features.tables import BATCH, EventTable, locked
from mlplat.stats import ColumnSketch, TableSketch
from mlplat.stats.packed import pack, unpack

Kept = Mapping[Span, TableSketch]
"""In order of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """What is known of the rows with event time in [since_us, until_us), both None if there are none."""

    sketch: TableSketch
    since_us: int | None
    until_us: int | None


class Statistics:
    """The statistics of one home. Thread-safe; several processes may read and bring them up to date."""

    def __init__(self, home: Path) -> None:
        self._root = home / "statistics"

    def of(self, name: str, table: EventTable, time: str) -> Kept:
        """Of all rows that are in the table now; `name` is that of the file, such as `sources/orders`.

        A row that corrects another counts as well as that one; rows that retention removed still count.
        """
        path = self._path(name)
        with locked(path.with_name(path.name + ".lock")):
            through, kept = _read(path) if path.exists() else (-1, {})
            if table.version() < through:  # the data set was deleted, and begun again
                through, kept = -1, {}
            stamps = table.read([time, BATCH], after_batch=through)
            if stamps.is_empty():
                return kept
            newest = stamps[BATCH].max()
            assert isinstance(newest, int)
            spans = with_days(kept, _days(stamps[time]).unique().to_list())
            kept = _merged(spans, kept, _of_new_rows(table, time, spans, (through, newest)))
            write_atomically(path, _packed(newest, kept))
            return kept

    def forget(self, name: str) -> None:
        """Called before a table is deleted, so that another of its name begins anew."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._root / f"{name}.stats"


def covering(kept: Kept, *, since_us: int | None, until_us: int | None) -> Covered:
    """The spans that have some of [since, until) in them, whole."""
    first = -np.inf if since_us is None else since_us
    last = np.inf if until_us is None else until_us
    chosen = {s: sketch for s, sketch in kept.items() if s[1] * DAY_US > first and s[0] * DAY_US < last}
    spans = list(chosen)
    return Covered(
        sketch=reduce(TableSketch.merge, chosen.values(), TableSketch(columns={})),
        since_us=spans[0][0] * DAY_US if spans else None,
        until_us=spans[-1][1] * DAY_US if spans else None,
    )


def newest_rows(kept: Kept, at_least: int) -> TableSketch:
    """Of the newest spans that have so many rows together, or of all."""
    sketch = TableSketch(columns={})
    for part in reversed(list(kept.values())):
        if sketch.rows >= at_least:
            break
        sketch = part.merge(sketch)
    return sketch


def _of_new_rows(table: EventTable, time: str, spans: list[Span], batches: tuple[int, int]) -> Kept:
    """One column at a time is in memory."""
    through, newest = batches
    starts = pl.Series([start for start, _ in spans])
    columns: dict[Span, dict[str, ColumnSketch]] = {}
    for name in table.schema() or {}:
        rows = table.read([*dict.fromkeys([time, BATCH, name])], after_batch=through).filter(pl.col(BATCH) <= newest)
        at = starts.search_sorted(_days(rows[time]), side="right").cast(pl.Int64) - 1
        parts = pl.DataFrame([rows[name].alias("value"), at.alias("span")]).partition_by("span", as_dict=True)
        for (index,), part in parts.items():
            columns.setdefault(spans[index], {})[name] = ColumnSketch.of(part["value"])
    rows_of = {span: next(iter(sketches.values())).rows for span, sketches in columns.items()}
    return {span: TableSketch(rows=rows_of[span], columns=sketches) for span, sketches in columns.items()}


def _merged(spans: list[Span], kept: Kept, new: Kept) -> Kept:
    starts = [start for start, _ in spans]
    merged: dict[Span, TableSketch] = {}
    for (start, _), sketch in [*kept.items(), *new.items()]:
        span = spans[int(np.searchsorted(starts, start, side="right")) - 1]
        merged[span] = merged[span].merge(sketch) if span in merged else sketch
    return {span: merged[span].compact() for span in spans}


def _days(times: pl.Series) -> pl.Series:
    return times.to_physical() // DAY_US


def _packed(through: int, kept: Kept) -> bytes:
    return pack({"through": through, "spans": list(kept)}, [sketch.to_bytes() for sketch in kept.values()])


def _read(path: Path) -> tuple[int, Kept]:
    header, parts = unpack(path.read_bytes())
    pairs = zip(header["spans"], parts, strict=True)
    return header["through"], {(span[0], span[1]): TableSketch.from_bytes(part) for span, part in pairs}
