"""The endpoint that is measured: a small network over ten online features and three fields of the request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

import mlplat
from benchmarks._features.joins import row_view
from benchmarks._figures import Scene
from benchmarks._serving.client import Target
from mlplat.model import mlp
from mlplat.serve.endpoint import Endpoint, alive
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent

NAME = "late"
ENTITIES, FIRST_ENTITY = 1_000, 100_000
FIELDS = ("a", "b", "c")
FEATURES = tuple(f"f{i}" for i in range(10))
BODY = '{"rows":[{"user":1%(entity)05d,"a":0.%(number)09d,"b":0.5,"c":-1.5}]}'
HIT = 500
"""So many rows, asked again and again, are hits."""
SETTINGS = TrainSettings(epochs=1, holdout_s=10 * 24 * 3600, batch_size=128, learning_rate=1e-2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    platform: mlplat.Platform

    def endpoint(self, name: str = NAME, **options: object) -> Endpoint:
        return self.platform.serve(name, **options)  # type: ignore[arg-type]

    def target(self, endpoint: Endpoint, *, repeat: int | None = None) -> Target:
        return Target(
            port=int(endpoint.url.rpartition(":")[2]),
            path=f"/predict/{endpoint.name}",
            body=BODY,
            entities=ENTITIES,
            repeat=repeat,
        )


@contextmanager
def opened(scene: Scene, *, versions: int = 1, names: tuple[str, ...] = (NAME,)) -> Iterator[Rig]:
    """A home with so many versions under each name; the first is gold."""
    with mlplat.connect(scene.folder / "home") as platform:
        view = row_view("activity", FEATURES, ttl=None)
        platform.features.ingest(view.source, _events())
        platform.features.apply(view)
        for name in names:
            data = platform.features.training_set(name, _labels(), [view], label="late", time="at", request=FIELDS)
            for number in range(versions):
                model = platform.train(mlp((64, 32 + number)), data, settings=SETTINGS, progress=Silent())
                platform.promote(model, force=("the benchmark", "any will do"))
        yield Rig(platform=platform)


def replica_port() -> int:
    """Where the ingress replica listens itself, behind the proxy."""
    first, last = (int(os.environ[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
    (port,) = [port for port in range(first, last + 1) if alive(f"http://127.0.0.1:{port}")]
    return port


def _events() -> pl.DataFrame:
    values = np.random.default_rng(3).standard_normal((len(FEATURES), ENTITIES))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    users = np.arange(FIRST_ENTITY, FIRST_ENTITY + ENTITIES)
    return pl.DataFrame(dict(zip(FEATURES, values, strict=True))).with_columns(
        user=users, at=pl.lit(at), created=pl.lit(at)
    )


def _labels(rows: int = 4_000) -> pl.DataFrame:
    rng, start = np.random.default_rng(7), datetime(2026, 2, 1, tzinfo=UTC)
    a, b, c = rng.standard_normal((3, rows))
    return pl.DataFrame(
        {
            "user": FIRST_ENTITY + np.arange(rows) % ENTITIES,
            "at": [start + timedelta(minutes=10 * i) for i in range(rows)],
            "a": a,
            "b": b,
            "c": c,
            "late": (rng.random(rows) < 1 / (1 + np.exp(-2 * a - b))).astype(np.int64),
        }
    )
