"""The point-in-time join of views whose rows do not fit in memory: scatter both sides over buckets of entities, join each
bucket, and gather the features in the order of the labels."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from mlplat.errors import Refused
from mlplat.features import bucket_files as files
from mlplat.features import offline
from mlplat.features.bucket_tasks import AT, JoinBucket, Rows, Run, Scatter, bucket_numbers
from mlplat.features.buckets import MIB, Plan, Size, fits, plan_for
from mlplat.features.definitions import View
from mlplat.features.tables import EventTable
from mlplat.features.validate import normal

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joiner:
    """Joins within `limit` bytes of memory: here, or, where a view's rows do not fit, in buckets on at most `workers`
    processes. `made` is the size in bytes of the features of all views of the join. Under the folder `root` a join in
    buckets takes disk for all rows of a view for a while."""

    root: Path
    limit: int
    made: int
    workers: int
    run: Run

    def columns(
        self,
        labels: pl.DataFrame,
        view: View,
        *,
        time: str,
        table: EventTable,
        rows_of: offline.RowsOf,
        known_us: int | None = None,
    ) -> list[pl.Series]:
        """What `offline.columns` gives. `table` has the view's rows up to now, or is not there."""
        if table.version() < 0:
            return offline.columns(labels, view, time=time, rows_of=rows_of, known_us=known_us)
        rows = Rows.of(view, table)
        size = rows.size()
        if fits(size, made=self.made, limit=self.limit):
            return offline.columns(labels, view, time=time, rows_of=rows_of, known_us=known_us)
        planned = plan_for(
            view,
            size,
            labels=labels.height,
            labels_bytes=int(labels.estimated_size()),
            limit=self.limit,
            workers=self.workers,
        )
        _LOG.info(
            "view %r: %d rows do not fit in memory and are joined in %d buckets", view.name, size.rows, planned.buckets
        )
        return columns(labels, rows, time=time, plan=planned, root=self.root, run=self.run, known_us=known_us)


def columns(
    labels: pl.DataFrame, rows: Rows, *, time: str, plan: Plan, root: Path, run: Run, known_us: int | None = None
) -> list[pl.Series]:
    """What `offline.columns` gives, byte for byte, within the memory of the plan. The columns are mapped files.

    Raises `Refused` if the disk has not room for the rows.
    """
    schema, view = rows.schema(), rows.view
    # Refuses what the whole join would refuse, before any work.
    empty = offline.columns(
        labels.clear(), view, time=time, rows_of=lambda _: pl.DataFrame(schema=schema), known_us=None
    )
    if labels.is_empty():
        return empty
    with files.scratch(root) as folder:
        _check_disk(rows.size(), folder)
        paths = [folder / f"labels-{bucket}" for bucket in range(plan.buckets)]
        files.scatter([_asked(labels, rows, time)], partial(bucket_numbers, view.keys, plan.buckets), paths)
        run([Scatter(rows=rows, plan=plan, folder=folder, share=share) for share in range(plan.workers)], plan.workers)
        task = partial(JoinBucket, rows=rows, plan=plan, folder=folder, time=time, known_us=known_us)
        joins = [task(bucket=bucket) for bucket, path in enumerate(paths) if path.exists()]
        run(joins, plan.workers)
        return _gathered([folder / f"made-{join.bucket}" for join in joins], empty, folder)


def _asked(labels: pl.DataFrame, rows: Rows, time: str) -> pl.DataFrame:
    """The keys of the labels in the types of the rows, their time and their positions."""
    keys = rows.view.keys
    schema = rows.schema()
    typed = normal(labels.select(keys)).cast({key: schema[key] for key in keys})
    return typed.with_columns(labels[time]).with_row_index(AT).cast({AT: pl.Int64})


def _gathered(made: Sequence[Path], empty: Sequence[pl.Series], folder: Path) -> list[pl.Series]:
    """The features in the order of the labels, one column in memory at a time."""
    at = files.column(made, AT).to_numpy()
    place = np.empty(len(at), dtype=np.int64)
    place[at] = np.arange(len(at))
    return [
        files.mapped(files.column(made, wanted.name).gather(place), folder / f"column-{number}")
        for number, wanted in enumerate(empty)
    ]


def _check_disk(size: Size, folder: Path) -> None:
    if (free := shutil.disk_usage(folder).free) < size.bytes:
        raise Refused(
            f"the join needs about {size.bytes // MIB} MiB of disk for a while, and {folder.parent} has {free // MIB} MiB "
            "free: make room there, or allow the join more memory"
        )
