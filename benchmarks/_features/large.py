"""A table of 5 GiB: a join with little memory, and a backfill whose actor is killed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.dataset as ds
from deltalake import DeltaTable

import mlplat
from benchmarks._features import by_hand, data, joins, memory
from benchmarks._figures import Figures, Scene
from benchmarks._processes import below
from mlplat import features as F
from mlplat.features import View
from mlplat.model.signature import FeatureRef

GIB = 1 << 30
CAP_MIB = 512
BATCHES, VALUES, ENTITIES = 20, 40, 20_000
NAMES = [f"f{i}" for i in range(VALUES)]
ROW_BYTES = 8 * (3 + VALUES)
TTL = timedelta(days=3)
SAMPLED = 16
"""Every so many users are joined in memory too."""

history = joins.row_view("history", NAMES, ttl="3d")


@F.view(history.source, actors=(2, 2))
class made:
    """A transform that takes little time: it is the table that is long."""

    total: float
    high: bool

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(total=pl.col("f0") + pl.col("f1"), high=pl.col("f2") > 0.5)


class Table:
    """The events in batches that follow one another in time; made again whenever they are needed."""

    def __init__(self, scene: Scene) -> None:
        self.batches = scene.size(BATCHES, 2)
        self.rows = scene.size(5 * GIB // ROW_BYTES // BATCHES, 4_000)

    def batch(self, number: int, values: int = VALUES) -> pl.DataFrame:
        """One in a hundred rows is a correction of the one before it, which became known in the next three days."""
        rng = np.random.default_rng(100 + number)
        begin, end = self.span_us(number)
        user, at = rng.integers(0, ENTITIES, self.rows), rng.integers(begin, end, self.rows)
        created = at + rng.integers(0, 60_000_000, self.rows)
        again = np.arange(99, self.rows, 100)
        user[again], at[again] = user[again - 1], at[again - 1]
        created[again] = created[again - 1] + rng.integers(1, 3 * data.DAY_US, len(again))
        return data.frame(user=user, at=at, created=created, **data.floats(rng, self.rows, values))

    def span_us(self, number: int) -> tuple[int, int]:
        length = data.DAYS * data.DAY_US // self.batches
        return data.START_US + number * length, data.START_US + (number + 1) * length


def join_out_of_core(scene: Scene) -> Figures:
    with _filled(scene, apply=True) as (platform, table):
        asked = data.labels(scene.size(500_000, 2_000), entities=ENTITIES, seed=4).with_row_index("late")
        worker = _idle_worker(platform)
        _joined(platform, asked.head(100), "warm")
        with memory.peak(worker=worker) as peak:
            found = _joined(platform, asked, "out_of_core")
        differing = _unlike_in_memory(scene, table, asked, found)
        return Figures(
            ours=peak.bytes / GIB,
            reference=CAP_MIB / 1024,
            wrong=f"{differing:,} rows are not as in memory" if differing else "",
            note=f"at the peak: {peak.parts}",
        )


def backfill_killed(scene: Scene) -> Figures:
    with _filled(scene, apply=False) as (platform, table):
        killed = _backfilled(platform, made)
        wrong = sum(_wrong(platform, table, number) for number in range(table.batches))
        return Figures(
            ours=float(wrong), wrong="" if killed or scene.quick else "no actor could be killed in its middle"
        )


@contextmanager
def _filled(scene: Scene, *, apply: bool) -> Iterator[tuple[mlplat.Platform, Table]]:
    """A home with the events, made in another process: what that has freed, and not given back, would count as idle."""
    table = Table(scene)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other:
        other.submit(_fill, scene.folder / "home", table, apply).result()
    with mlplat.connect(scene.folder / "home") as platform:
        yield platform, table


def _fill(home: Path, table: Table, apply: bool) -> None:
    with mlplat.connect(home) as platform:
        for number in range(table.batches):
            platform.features.ingest(history.source, table.batch(number))
        if apply:
            platform.features.apply(history)


def _joined(platform: mlplat.Platform, asked: pl.DataFrame, name: str) -> pl.DataFrame:
    found = platform.features.training_set(
        name, asked, [history], label="late", time="at", request=[], memory=f"{CAP_MIB}MiB"
    )
    frame = pl.from_arrow(found.table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _idle_worker(platform: mlplat.Platform) -> int:
    """Bytes of a worker of Ray that has loaded what ours load, and does nothing."""
    _ = platform.session
    import ray

    def loaded() -> int:
        import mlplat.features.store  # noqa: F401

        return os.getpid()

    return memory.size(ray.get(ray.remote(loaded).remote()))


def _unlike_in_memory(scene: Scene, table: Table, asked: pl.DataFrame, found: pl.DataFrame) -> int:
    """Of some users, the rows that a join in memory, by hand, gives otherwise."""
    sampled = pl.col("user") % SAMPLED == 0
    file = scene.folder / "sampled.parquet"
    pl.concat([table.batch(number).filter(sampled) for number in range(table.batches)]).write_parquet(file)
    expected = by_hand.join(asked.filter(sampled), file, NAMES, ttl=TTL)
    ours = found.filter(sampled).rename({f"history.{name}": name for name in NAMES}).select(expected.columns)
    return joins.differing(ours, expected.cast({"late": ours.schema["late"]}))


def _backfilled(platform: mlplat.Platform, view: View) -> bool:
    """Whether an actor was killed while it was in its middle."""
    _ = platform.session  # its start is no part of this
    operation = platform.features.backfill(view)
    killed = False
    while not (status := operation.wait(0.05)).ended:
        if not killed and status.phase == "rows" and 0.2 < status.done / max(1, status.total) < 0.8:
            killed = _kill_an_actor()
    operation.result()
    return killed


def _kill_an_actor() -> bool:
    """The one that has worked most."""
    actors = below("MapWorker")
    if actors:
        max(actors, key=lambda p: p.cpu_times().user).kill()
    return bool(actors)


EVENT = ["user", "at", "created"]


def _wrong(platform: mlplat.Platform, table: Table, number: int) -> int:
    rows = table.batch(number, values=3).select(*EVENT, total=pl.col("f0") + pl.col("f1"), high=pl.col("f2") > 0.5)
    return wrong_rows(rows, _made_rows(platform.home, made.ref, *table.span_us(number)))


def wrong_rows(expected: pl.DataFrame, found: pl.DataFrame) -> int:
    """Rows that are missing, that are there more than once or should not be, or that have other values than they should."""
    once = found.unique(EVENT)
    both = expected.join(once, on=EVENT, how="inner", suffix="_found")
    same = both.filter((pl.col("total") == pl.col("total_found")) & (pl.col("high") == pl.col("high_found")))
    return (expected.height - same.height) + (once.height - both.height) + (found.height - once.height)


def _made_rows(home: Path, ref: FeatureRef, begin_us: int, end_us: int) -> pl.DataFrame:
    """As they lie in the view's table: what a read gives could hide a duplicate."""
    rows = DeltaTable(str(home / "tables" / "views" / f"{ref.view}@{ref.version}")).to_pyarrow_dataset()
    begin, end = (pl.Series([us]).cast(data.TIME).to_list()[0] for us in (begin_us, end_us))
    frame = pl.from_arrow(rows.to_table(filter=(ds.field("at") >= begin) & (ds.field("at") < end)))
    assert isinstance(frame, pl.DataFrame)
    return frame
