"""What the cache costs a request that misses, and whether that stays so while a million unique rows pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import orjson
import polars as pl

import mlplat
from benchmarks._features import joins
from benchmarks._figures import Figures, Scene
from mlplat.clock import SystemClock
from mlplat.features.reader import open_reader
from mlplat.features.registry import Registry
from mlplat.model import FeatureRef, Field, InputEncoding, Model, Signature, mlp
from mlplat.model.build import build, read_weights
from mlplat.model.inputs import CategoricalInput, NumericInput
from mlplat.model.task import BINARY
from mlplat.serve.answer import Answerer
from mlplat.serve.cache import Cache, row_keys
from mlplat.serve.log import PredictionLog
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version

USERS, BLOCK = 1_000, 250
VIEWS = {"lately": tuple(f"l{i}" for i in range(6)), "ever": tuple(f"e{i}" for i in range(6))}
TEXTS = tuple(f"v{i:03d}" for i in range(200))
ANSWER, ANSWER_BYTES = (0.5,), 72
"""As big as what is kept of an answer of one number."""
MAX_BYTES = 64 << 20

Columns = list[list[Any]]
"""The inputs of one row: twelve features, a number and two texts."""


def cost(scene: Scene) -> Figures:
    """Microseconds of key, get and put for a row that is not there, in a full cache, beside those of the whole answer without
    a cache: parse, assign, read the features, predict, render, log."""
    made, cache = _Rows(), _cache(scene)
    _fill(cache, made, scene.size(300_000, 10_000))
    asked, cached = [], []
    with _endpoint(scene) as endpoint, asyncio.Runner() as loop:
        for _ in range(scene.size(60, 2)):
            asked.append(loop.run(endpoint.answers(made.bodies(BLOCK))))
            cached.append(_misses(cache, made.inputs(BLOCK)))
    ours, reference = (_each(seconds) for seconds in (cached, asked))
    return Figures(ours=ours, reference=reference, wrong=_wrong(cache))


def flat(scene: Scene) -> Figures:
    """Microseconds of a whole miss in the last tenth of the rows, beside those in the first, when the cache is not yet full.

    The two take turns in blocks, each with a cache of its own, so that both see the same machine; the answers between the
    blocks know nothing of the caches, so they count for both alike.
    """
    made, tenth = _Rows(), scene.size(100_000, 2_000)
    first, last = _cache(scene), _cache(scene)
    _fill(last, made, 9 * tenth)
    wrong = _wrong(last)
    alone: tuple[list[float], list[float]] = ([], [])
    answers = []
    with _endpoint(scene) as endpoint, asyncio.Runner() as loop:
        for number in range(tenth // BLOCK):
            turns = list(zip((first, last), alone, strict=True))
            for cache, seconds in turns if number % 2 else turns[::-1]:
                answers.append(loop.run(endpoint.answers(made.bodies(BLOCK // 5))))
                seconds.append(_misses(cache, made.inputs(BLOCK)))
    answer = 5 * _each(answers)
    early, late = map(_each, alone)
    note = f"key, get and put alone: {late:.2f} us in the last tenth, {early:.2f} in the first"
    return Figures(ours=answer + late, reference=answer + early, wrong=wrong or _wrong(last), note=note)


def _each(seconds: Sequence[float]) -> float:
    return 1e6 * median(seconds) / BLOCK


def _cache(scene: Scene) -> Cache[tuple[float, ...]]:
    return Cache(max_bytes=scene.size(MAX_BYTES, 1 << 20), ttl_s=3_600.0, clock=SystemClock())


def _fill(cache: Cache[tuple[float, ...]], made: _Rows, rows: int) -> None:
    for _ in range(rows // BLOCK):
        _misses(cache, made.inputs(BLOCK))


def _misses(cache: Cache[tuple[float, ...]], requests: Sequence[Columns]) -> float:
    """Seconds of what the cache adds to as many requests of one row."""
    digest = "d" * 64
    began = perf_counter()
    for columns in requests:
        (key,) = row_keys(digest, columns, 1)
        if cache.get(key) is None:
            cache.put(key, ANSWER, ANSWER_BYTES)
    return perf_counter() - began


def _wrong(cache: Cache[tuple[float, ...]]) -> str:
    found = cache.counters()
    return "" if found.evicted and not found.hits else f"not a full cache of rows that come once: {found}"


class _Rows:
    """Made rows, no two alike; a null in some."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def inputs(self, rows: int) -> list[Columns]:
        numbers = self._rng.standard_normal((13, rows)).tolist()
        numbers[0] = [None if value > 1.0 else value for value in numbers[0]]
        texts = [[TEXTS[code] for code in self._rng.integers(0, len(TEXTS), rows)] for _ in range(2)]
        return [[[value] for value in row] for row in zip(*numbers, *texts, strict=True)]

    def bodies(self, rows: int) -> list[bytes]:
        users, distances = self._rng.integers(0, USERS, rows).tolist(), self._rng.random(rows).tolist()
        return [
            orjson.dumps({"rows": [{"user": user, "distance": far, "origin": TEXTS[1], "carrier": TEXTS[2]}]})
            for user, far in zip(users, distances, strict=True)
        ]


class _Endpoint:
    def __init__(self, answerer: Answerer, served: Served) -> None:
        self._answerer, self._served = answerer, served

    async def answers(self, bodies: Sequence[bytes]) -> float:
        """Seconds of as many requests, without a cache."""
        began = perf_counter()
        for body in bodies:
            await self._answerer.answer(self._served, body, "request")
        return perf_counter() - began


@contextmanager
def _endpoint(scene: Scene) -> Iterator[_Endpoint]:
    """The flights job's network in this process, before an embedded store and a log."""
    home, ids = scene.folder / "home", count()
    with mlplat.connect(home) as platform:
        refs = [_view(platform, name, values) for name, values in VIEWS.items()]
    model = _model(refs)
    model.warm()
    table = RoutingTable(epoch=1, salt="late", arms=(Arm(name=GOLD, version=1, share=1.0),))
    reader, log = open_reader(home), PredictionLog(home)
    try:
        answerer = Answerer(reader=reader, log=log, clock=SystemClock(), new_id=lambda: f"id{next(ids)}")
        yield _Endpoint(answerer, Served.of("late", table, [Version.of(1, model)]))
    finally:
        log.close()
        reader.close()


def _view(platform: mlplat.Platform, name: str, values: Sequence[str]) -> FeatureRef:
    view, at = joins.row_view(name, values, ttl=None), datetime(2024, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame(np.random.default_rng(0).standard_normal((USERS, len(values))), schema=list(values))
    rows = rows.with_columns(user=np.arange(USERS), at=pl.lit(at), created=pl.lit(at))
    platform.features.ingest(view.source, rows)
    (applied,) = platform.features.apply(view)
    return Registry(platform.home / "features").view(name, applied.version).ref


def _model(refs: Sequence[FeatureRef]) -> Model:
    numbers, texts = (*(column for ref in refs for column in ref.columns()), "distance"), ("origin", "carrier")
    encoding = InputEncoding(
        numeric=tuple(NumericInput(name=n, dtype="float64", mean=0.0, scale=1.0, indicator=False) for n in numbers),
        categorical=tuple(CategoricalInput(name=n, dtype="string", vocabulary=TEXTS) for n in texts),
    )
    signature = Signature(
        entities=(Field(name="user", dtype="int64", required=True),),
        request=(Field(name="distance", dtype="float64"), *(Field(name=name, dtype="string") for name in texts)),
        features=tuple(refs),
        outputs=BINARY.fields(),
    )
    network = mlp((128, 64), dropout=0.1)
    weights = read_weights(build(network, encoding))
    return Model(network=network, weights=weights, encoding=encoding, signature=signature)
