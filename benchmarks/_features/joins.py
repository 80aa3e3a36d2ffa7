"""Point-in-time joins: ours from its Delta table, the peers from Parquet files of the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

import polars as pl

import mlplat
from benchmarks._features import by_hand, data, feast_peer
from benchmarks._figures import Figures, Scene
from benchmarks._form import alternately, medians, timed
from mlplat import features as F
from mlplat.features import View

TTL_DAYS = 3
TTL = timedelta(days=TTL_DAYS)
ROWS_PER_ENTITY = 500
"""In 30 days. What Feast takes grows with it, for it first makes every pair of a label and a row within its time-to-live;
what we and a join by hand take does not. So its row is noted with a tenth of it as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Labels to join with a view of events that lie in the home, and in a Parquet file."""

    platform: mlplat.Platform
    view: View
    labels: pl.DataFrame
    events: Path
    values: Sequence[str]

    def ours(self) -> pl.DataFrame:
        return self.platform.features.join(self.labels, [self.view], time="at")

    def by_hand(self) -> pl.DataFrame:
        return by_hand.join(self.labels, self.events, self.values, ttl=TTL)

    def plain(self) -> pl.DataFrame:
        return by_hand.plain(self.labels, self.events, self.values, ttl=TTL)


def small(scene: Scene) -> Figures:
    with _task(scene, labels=scene.size(100_000, 1_000), events=scene.size(500_000, 5_000)) as task:
        return _against_hand(task, rounds=scene.size(15, 2))


def large(scene: Scene) -> Figures:
    with _task(scene, labels=scene.size(1_000_000, 2_000), events=scene.size(5_000_000, 10_000)) as task:
        return _against_hand(task, rounds=scene.size(5, 1))


def feast_duckdb(scene: Scene) -> Figures:
    dense = _against_feast(scene, "duckdb", rounds=5)
    sparse = _against_feast(scene, "duckdb", rounds=5, per_entity=ROWS_PER_ENTITY // 10)
    assert sparse.reference is not None
    fewer = f"with {ROWS_PER_ENTITY // 10} rows an entity {sparse.ours:.3g} s / {sparse.reference:.3g} s"
    return replace(dense, note=f"{dense.note}; {fewer} = {sparse.ours / sparse.reference:.2g}")


def feast_default(scene: Scene) -> Figures:
    return _against_feast(scene, "dask", rounds=2)


def five_views(scene: Scene) -> Figures:
    """Five sources of four values each, each view with a time-to-live of its own."""
    ages = (1, 2, 3, 7, 30)
    count = scene.size(300_000, 5_000)
    entities = count // ROWS_PER_ENTITY
    asked = data.labels(scene.size(100_000, 1_000), entities=entities, seed=1)
    with mlplat.connect(scene.folder / "home") as platform:
        files = [scene.folder / f"{i}.parquet" for i in range(len(ages))]
        views: list[View] = []
        values = [f"f{i}" for i in range(4)]
        for i, (days, file) in enumerate(zip(ages, files, strict=True)):
            rows = data.events(count, entities=entities, values=4, seed=10 + i)
            views.append(row_view(f"view{i}", values, ttl=f"{days}d"))
            _put(platform, views[-1], rows, file)

        def ours() -> pl.DataFrame:
            return platform.features.join(asked, views, time="at")

        def hand() -> pl.DataFrame:
            joined = asked
            for i, (days, file) in enumerate(zip(ages, files, strict=True)):
                found = by_hand.join(asked, file, values, ttl=timedelta(days=days))
                joined = joined.hstack(found.select(pl.col(values).name.prefix(f"view{i}.")).get_columns())
            return joined

        wrong = differing(ours(), hand())
        mine, reference = medians(scene.size(9, 1), timed(ours), timed(hand))
        return Figures(ours=mine, reference=reference, wrong=_said(wrong))


def row_view(name: str, values: Sequence[str], *, ttl: str | None) -> View:
    """The newest row's values, of a source of the same name."""
    source = F.source(f"{name}_events", key="user", time="at", created="created")
    body = type(name, (), {"__annotations__": dict.fromkeys(values, float), **{v: F.latest(v) for v in values}})
    return F.view(source, ttl=ttl)(body)


def _put(platform: mlplat.Platform, view: View, rows: pl.DataFrame, file: Path) -> None:
    rows.write_parquet(file, compression="snappy")  # as Delta has it
    platform.features.ingest(view.source, rows)
    platform.features.apply(view)


@contextmanager
def _task(scene: Scene, *, labels: int, events: int, per_entity: int = ROWS_PER_ENTITY) -> Iterator[Task]:
    entities = events // per_entity
    values = [f"f{i}" for i in range(10)]
    view = row_view("activity", values, ttl=f"{TTL_DAYS}d")
    file = scene.folder / "events.parquet"
    with mlplat.connect(scene.folder / "home") as platform:
        _put(platform, view, data.events(events, entities=entities, values=10, seed=2), file)
        asked = data.labels(labels, entities=entities, seed=3)
        yield Task(platform=platform, view=view, labels=asked, events=file, values=values)


def _against_hand(task: Task, *, rounds: int) -> Figures:
    expected = task.by_hand()
    found = task.ours().rename({f"activity.{v}": v for v in task.values})
    wrong = differing(found, expected)
    seconds = alternately(rounds, timed(task.ours), timed(task.by_hand), timed(task.plain))
    mine, reference, plain = map(median, seconds)
    careless = differing(task.plain(), expected)
    note = f"an as-of join without created takes {plain:.3g} s and gets {careless:,} of {expected.height:,} wrong"
    return Figures(ours=mine, reference=reference, wrong=_said(wrong), note=note)


def _said(rows: int) -> str:
    return f"{rows:,} rows differ from the reference" if rows else ""


def _against_feast(scene: Scene, engine: str, *, rounds: int, per_entity: int = ROWS_PER_ENTITY) -> Figures:
    scene = replace(scene, folder=scene.folder / str(per_entity))
    scene.folder.mkdir()
    size = scene.size
    with _task(scene, labels=size(100_000, 1_000), events=size(500_000, 5_000), per_entity=per_entity) as task:
        asked = scene.folder / "labels.parquet"
        task.labels.rename({"at": "event_timestamp"}).with_row_index("row").write_parquet(asked)
        with feast_peer.Peer.start(scene, offline=engine) as peer:
            peer.ask("offline", events=str(task.events), labels=str(asked), values=list(task.values), ttl_days=TTL_DAYS)
            mine, reference = medians(rounds, timed(task.ours), partial(peer.seconds, "join"))
            answer = scene.folder / "feast.parquet"
            peer.ask("save", path=str(answer))
        wrong = _unlike_feast(task, answer)
        return Figures(
            ours=mine, reference=reference, note=f"Feast's answer differs in {wrong:,} of {task.labels.height:,}"
        )


def _unlike_feast(task: Task, answer: Path) -> int:
    """Labels that Feast dropped, or gave other values than the definition."""
    expected = task.by_hand().with_row_index("row")
    found = pl.read_parquet(answer).select(pl.col("row").cast(pl.UInt32), *task.values)
    got = expected.select("row").join(found, on="row", how="left", maintain_order="left")
    dropped = expected.height - found["row"].n_unique()
    return max(differing(got.select(task.values), expected.select(task.values)), dropped)


def differing(one: pl.DataFrame, other: pl.DataFrame) -> int:
    """Rows that are not the same to the bit."""
    assert one.columns == other.columns
    assert one.height == other.height
    same = [one[name].eq_missing(other[name]) for name in one.columns]
    return int((~pl.DataFrame(same).select(pl.all_horizontal(pl.all()))[:, 0]).sum())
