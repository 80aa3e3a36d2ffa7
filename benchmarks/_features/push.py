"""One event, from `push` to readable online."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime, timedelta

import lmdb
import numpy as np
import orjson
import polars as pl

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._form import alternately, timed
from mlplat import features as F

LIMIT_MS = 50.0
START = datetime(2024, 1, 1, tzinfo=UTC)
ENTITIES = 1_000

sales = F.source("sales", key="user", time="at")


@F.view(sales, online="inline")
class spend:
    """What an inline transform makes of one event."""

    total: float
    large: bool

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        total = pl.col("price") * pl.col("pieces")
        return rows.select(total=total, large=total > 100)


class Events:
    """One event after another, each newer than all before it."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> dict[str, object]:
        self.count += 1
        at = START + timedelta(seconds=self.count)
        return {"user": self.count % ENTITIES, "at": at, "price": float(self.count), "pieces": 2}


def readable(scene: Scene) -> Figures:
    """The reference makes the event durable in a file that only grows, and puts a blob into LMDB."""
    with (
        mlplat.connect(scene.folder / "home") as platform,
        (scene.folder / "log").open("ab") as log,
        lmdb.open(str(scene.folder / "floor"), map_size=1 << 30, metasync=False) as environment,
    ):
        events, bare_events = Events(), Events()
        platform.features.ingest(sales, [events.next()])
        platform.features.apply(spend)
        unread = 0

        def push() -> None:
            platform.features.push(sales, events.next())

        def bare() -> None:
            event = bare_events.next()
            log.write(orjson.dumps(event) + b"\n")
            log.flush()
            os.fsync(log.fileno())
            with environment.begin(write=True) as txn:
                txn.put(b"spend/%d" % event["user"], np.array([event["price"], event["pieces"]]).tobytes())

        timed_push = timed(push)

        def push_and_look() -> float:
            nonlocal unread
            took = timed_push()
            at = START + timedelta(seconds=events.count)
            found = platform.features.online(spend, {"user": [events.count % ENTITIES]}, at=at).numpy()
            unread += found[0, 0] != 2.0 * events.count
            return took

        ours, reference = alternately(scene.size(2_000, 20), push_and_look, timed(bare))
    return _figures(ours, reference, unread, limit_ms=math.inf if scene.quick else LIMIT_MS)


def _figures(ours: list[float], reference: list[float], unread: int, *, limit_ms: float) -> Figures:
    (p50, p99), (bare50, bare99) = (1e3 * np.quantile(taken, [0.5, 0.99]) for taken in (ours, reference))
    wrong = [f"{unread} events were not readable when push returned"] if unread else []
    wrong += [f"above {limit_ms:g} ms"] if p99 > limit_ms else []
    return Figures(
        ours=float(p99),
        reference=float(bare99),
        wrong="; ".join(wrong),
        note=f"half of them take at most {p50:.3g} ms, against {bare50:.3g}",
    )
