"""Joins of more rows than memory holds: how many buckets of entities, how large, and what of the past a later moment
still sees. Pure: nothing here reads data.

An entity's rows and labels are all in one bucket, so each bucket is a whole join. A bucket that is too large all the same
(one hot entity) is cut into stretches of time that are joined in order; each takes with it what the next can still see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.definitions import View

Ints = npt.NDArray[np.int64]

MIB = 2**20
LEAST_BYTES = 64 * MIB
DEFAULT_SHARE = 0.5
"""The share of the memory that the machine has free which a join takes unless it is told."""
TEXT_BYTES = 40
"""What a text is taken to need: the log of a table does not say."""

IN_MEMORY_COPIES = 6
"""Peak memory of a join over the size of its rows: measured 2 for the newest row, 5 for windows."""
BUCKET_COPIES = 6
"""The same for a bucket, which is read from files and put together."""
BATCH_COPIES = 8
"""The same for a batch that is read from a table and scattered over the buckets."""
COLUMN_BYTES = 4 * MIB
"""What a process holds for each column that it reads of a file, whatever the size of a batch: a page, its dictionary, and
what was decoded ahead. Measured 2.6 to 3.7 MiB."""
MOST_BUCKETS = 512
BATCH_ROWS = (2**12, 2**16)

_UNITS = {"MiB": MIB, "GiB": 2**30, "TiB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def limit_bytes(memory: str | None, *, available: int) -> int:
    """The memory that a join may take, from text such as "512MiB"; None is a share of `available` bytes. Raises
    `InvalidInput`."""
    if memory is None:
        return max(int(available * DEFAULT_SHARE), LEAST_BYTES)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]+)", memory) if isinstance(memory, str) else None
    if match is None or match[2] not in _UNITS:
        raise InvalidInput(
            f"memory={memory!r}: write a number and a unit of {', '.join(_UNITS)}, as in '512MiB' or '1.5GB'"
        )
    if (size := int(float(match[1]) * _UNITS[match[2]])) < LEAST_BYTES:
        raise InvalidInput(f"memory={memory!r}: a join needs at least {LEAST_BYTES // MIB}MiB")
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Rows of a view as they would lie in memory. `width` is bytes a row, of so many columns."""

    rows: int
    width: int
    columns: int

    @classmethod
    def of(cls, rows: int, schema: Mapping[str, pl.DataType]) -> Size:
        return cls(
            rows=rows,
            width=sum(TEXT_BYTES if dtype == pl.String else 8 for dtype in schema.values()),
            columns=len(schema),
        )

    @property
    def bytes(self) -> int:
        return self.rows * self.width


def made_bytes(views: Sequence[View], labels: int) -> int:
    """What the features of so many labels take."""
    return labels * sum(TEXT_BYTES if f.dtype == "string" else 8 for view in views for f in view.fields)


def fits(size: Size, *, made: int, limit: int) -> bool:
    """Whether a view of this size can be joined in memory, while features of `made` bytes are held, and then written."""
    return size.bytes * IN_MEMORY_COPIES + 2 * made <= limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`workers` processes scatter batches of at most `batch_rows` over `buckets`, and join these one at a time each; a
    bucket of more than `bucket_bytes` is cut into stretches of time. `label_rows` are joined at a time."""

    workers: int
    buckets: int
    bucket_bytes: int
    batch_rows: int
    label_rows: int


def plan_for(view: View, size: Size, *, labels: int, labels_bytes: int, limit: int, workers: int) -> Plan:
    """How to join within `limit` bytes of memory, in this process and at most `workers` others together.

    Raises `InvalidInput` if the labels alone leave no room.
    """
    # This process holds the labels, and a copy of their keys in order of buckets; at the end two columns of features.
    room = limit - 2 * labels_bytes - 2 * TEXT_BYTES * labels
    if room < limit // 4:
        needed = -(-(limit - room) * 4 // 3 // MIB)
        raise InvalidInput(
            f"memory: of {limit // MIB}MiB the {labels} labels leave too little to join them: allow at least {needed}MiB, or "
            "join a part of the labels at a time"
        )
    reading = size.columns * COLUMN_BYTES
    workers = min(workers, max(room // (LEAST_BYTES + reading), 1))
    each = room // workers
    bucket = each // BUCKET_COPIES
    least, most = BATCH_ROWS
    return Plan(
        workers=workers,
        # On average half of what a bucket may have: entities differ.
        buckets=min(max(-(-2 * size.bytes // bucket), 1), MOST_BUCKETS),
        bucket_bytes=bucket,
        batch_rows=min(max((each - reading) // BATCH_COPIES // max(size.width, 1), least), most),
        label_rows=max(bucket // (made_bytes([view], 1) + 64), least),
    )


def bucket_of(keys: pl.DataFrame, buckets: int) -> Ints:
    """The bucket of each row of keys, the same for the same values in every process of one machine. Keys on both sides
    have the same types; a row with a null is in some bucket."""
    hashed = keys.hash_rows(seed=7)
    return (hashed % buckets).cast(pl.Int64).to_numpy()


def cuts(times_us: Ints, stretches: int) -> Ints:
    """Moments that cut a sample of times into about equal stretches: number i ends before the i-th of them."""
    quantiles = np.arange(1, stretches) / stretches
    found: Ints = np.unique(np.quantile(times_us, quantiles, method="lower"))
    return found


def stretch_of(times_us: Ints, moments_us: Ints) -> Ints:
    return np.searchsorted(moments_us, times_us, side="right").astype(np.int64)


def still_seen(view: View, rows: pl.DataFrame, from_us: int, *, known_us: int | None) -> pl.DataFrame:
    """Of rows before `from_us`, those that a label at or after it may see, where it sees what was known at its time, or at
    `known_us`.

    Windows reach so far back. Of other rows, those of which no later one was known at the same time or before: knowing
    of that one, nobody reads the older.
    """
    time, created = view.source.time, view.source.created
    if known_us is not None:
        # What no label may see does not stand in the way of what it may.
        rows = rows.filter(pl.col(created or time).to_physical() <= known_us)
    if view.windows:
        return rows.filter(pl.col(time).to_physical() >= from_us - view.span_us)
    if created is None:
        return rows.filter(pl.col(time) == pl.col(time).max().over(view.keys))
    moments = rows.group_by(*view.keys, time).agg(pl.col(created).min().alias("_known")).sort(time)
    later = pl.col("_known").cum_min(reverse=True).shift(-1).over(view.keys)
    moments = moments.with_columns(later.alias("_known"))
    kept = rows.join(moments, on=[*view.keys, time], how="left", nulls_equal=True, maintain_order="left")
    return kept.filter(pl.col("_known").is_null() | (pl.col(created) < pl.col("_known"))).drop("_known")
