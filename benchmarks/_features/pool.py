"""A CPU-bound transform on actors: two against one, and against a pool written by hand."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import write_deltalake

import mlplat
from benchmarks._features import data
from benchmarks._figures import Figures, Scene
from benchmarks._form import Timed, medians, timed
from mlplat import features as F
from mlplat.features import View

ROUNDS, BLOCKS = 3, 16


class busy:
    """Python that holds its core for about 0.1 ms a row."""

    end: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(end=pl.Series([self._walk(x) for x in rows["x"].to_list()], dtype=pl.Float64))

    def _walk(self, x: float) -> float:
        for _ in range(2_000):
            x = 3.7 * x * (1.0 - x)
        return x


def scaling(scene: Scene) -> Figures:
    """Rows per second of two actors over those of one."""
    with _fresh_views(scene) as fresh:
        rounds = scene.size(ROUNDS, 1)
        one, two = medians(rounds, _applying(fresh, actors=1), _applying(fresh, actors=2))
        rows = _rows(scene).height
        return Figures(ours=rows / two, reference=rows / one)


def against_ray_data(scene: Scene) -> Figures:
    with _fresh_views(scene) as fresh:
        rows = _rows(scene)
        made = scene.folder / "by_hand"

        def by_hand() -> None:
            _by_hand(rows, made)

        mine, reference = medians(scene.size(ROUNDS, 1), _applying(fresh, actors=2), timed(by_hand))
        return Figures(ours=mine, reference=reference)


Fresh = Callable[[int], tuple[mlplat.Platform, View]]


@contextmanager
def _fresh_views(scene: Scene) -> Iterator[Fresh]:
    """With Ray up: makes the view, over events that it has not seen, for so many actors."""
    number = itertools.count()
    with mlplat.connect(scene.folder / "home") as platform:
        _ = platform.session

        def fresh(actors: int) -> tuple[mlplat.Platform, View]:
            source = F.source(f"events{next(number)}", key="user", time="at")
            platform.features.ingest(source, _rows(scene))
            return platform, F.view(source, actors=(actors, actors))(busy)

        yield fresh


def _applying(fresh: Fresh, *, actors: int) -> Timed:
    """From events in their table to made rows in theirs."""

    def once() -> float:
        platform, view = fresh(actors)
        return timed(lambda: platform.features.apply(view))()

    return once


def _rows(scene: Scene) -> pl.DataFrame:
    count = scene.size(300_000, 2_000)
    at = data.START_US + np.arange(count) * 1_000_000
    x = np.random.default_rng(7).random(count)
    return pl.DataFrame({"user": np.arange(count) % 100, "at": at, "x": x}).with_columns(pl.col("at").cast(data.TIME))


class _Actor:
    def __init__(self) -> None:
        self._busy = busy()

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = pl.from_arrow(block)
        assert isinstance(rows, pl.DataFrame)
        return rows.select("user", "at").hstack(self._busy(rows)).to_arrow(compat_level=pl.CompatLevel.oldest())


def _by_hand(rows: pl.DataFrame, path: Path) -> None:
    """What one writes with Ray Data: equal blocks, as many actors, and the made rows into a Delta table."""
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    size = -(-table.num_rows // BLOCKS)
    made = ray.data.from_arrow([table.slice(at, size) for at in range(0, table.num_rows, size)]).map_batches(
        _Actor,
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    tables = [ray.get(ref) for ref in made.to_arrow_refs()]
    write_deltalake(str(path), pa.concat_tables(tables), mode="overwrite")
