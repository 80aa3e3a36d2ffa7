"""What the cache costs a request that misses, and whether that stays so while a million unique rows pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import orjson

from benchmarks._figures import Figures, Scene
from mlplat.clock import SystemClock
from mlplat.features.online import OnlineRows
from mlplat.model import FeatureRef, Field, InputEncoding, Model, Signature, mlp
from mlplat.model.build import build, read_weights
from mlplat.model.inputs import CategoricalInput, NumericInput
from mlplat.model.task import BINARY
from mlplat.serve.answer import Answerer, Served, Version
from mlplat.serve.cache import Cache, row_keys
from mlplat.serve.log import Record
from mlplat.serve.routing import GOLD, Arm, RoutingTable

NUMBERS = 13
NAMES = (*(f"n{i}" for i in range(NUMBERS)), "origin", "carrier")
TEXTS = tuple(f"v{i:03d}" for i in range(200))
VALUE_BYTES = 100
MAX_BYTES = 64 << 20
BLOCK = 250

Row = list[Any]


def cost(scene: Scene) -> Figures:
    """Seconds of key, get and put for a row that is not there, in a full cache, beside those of the answer without a cache:
    parse, assign, predict, render."""
    made, path = _Rows(), _Path(MAX_BYTES if not scene.quick else 1 << 20)
    path.fill(made, scene.size(300_000, 6_000))
    asked, cached = [], []
    for _ in range(scene.size(60, 2)):
        bodies = [orjson.dumps({"rows": [dict(zip(NAMES, row, strict=True))]}) for row in made.rows(BLOCK)]
        asked.append(_seconds(lambda bodies=bodies: [path.answer(body) for body in bodies]))
        rows = made.rows(BLOCK)
        cached.append(_seconds(lambda rows=rows: [path.miss(row) for row in rows]))
    ours, reference = (1e6 * median(seconds) / BLOCK for seconds in (cached, asked))
    return Figures(ours=ours, reference=reference)


def flat(scene: Scene) -> Figures:
    """Seconds of a miss, prediction included, in the last tenth of the rows and in the first.

    The two take turns in blocks, each with a cache of its own, so that both see the same machine.
    """
    made = _Rows()
    tenth, max_bytes = scene.size(100_000, 2_000), scene.size(MAX_BYTES, 2 << 20)
    first, last = _Path(max_bytes), _Path(max_bytes)
    last.fill(made, 9 * tenth)
    evicted = last.cache.counters().evicted
    whole: tuple[list[float], list[float]] = ([], [])
    alone: tuple[list[float], list[float]] = ([], [])
    for number in range(tenth // BLOCK):
        turns = list(zip((first, last), whole, alone, strict=True))
        for path, seconds, seconds_alone in turns if number % 2 else turns[::-1]:
            rows = made.rows(BLOCK)
            bodies = [orjson.dumps({"rows": [dict(zip(NAMES, row, strict=True))]}) for row in rows]
            taken = _seconds(lambda path=path, rows=rows: [path.miss(row) for row in rows])
            seconds.append(taken + _seconds(lambda path=path, bodies=bodies: [path.answer(body) for body in bodies]))
            seconds_alone.append(taken)
    ours, reference = (1e6 * median(seconds) / BLOCK for seconds in reversed(whole))
    cache_last, cache_first = (1e6 * median(seconds) / BLOCK for seconds in reversed(alone))
    found = last.cache.counters()
    return Figures(
        ours=ours,
        reference=reference,
        wrong="" if evicted and found.hits == 0 and found.bytes <= max_bytes else f"the cache did not fill: {found}",
        note=f"key, get and put alone: {cache_last:.2f} us last, {cache_first:.2f} first; {found.entries:,} entries",
    )


class _Rows:
    """Rows of 15 inputs, no two of them alike: numbers, two texts, and a null in some."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def rows(self, count: int) -> list[Row]:
        columns = self._rng.standard_normal((NUMBERS, count)).tolist()
        columns[-1] = [None if value > 1.0 else value for value in columns[-1]]
        texts = [[TEXTS[code] for code in self._rng.integers(0, len(TEXTS), count)] for _ in range(2)]
        return [list(row) for row in zip(*columns, *texts, strict=True)]


class _Path:
    """A cache, and the way of a request without one."""

    def __init__(self, max_bytes: int) -> None:
        clock = SystemClock()
        model = _model()
        model.warm()
        self.cache: Cache[Mapping[str, float]] = Cache(max_bytes=max_bytes, ttl_s=3_600.0, clock=clock)
        self._digest = model.digest
        table = RoutingTable(epoch=1, salt="late", arms=(Arm(name=GOLD, version=1, share=1.0),))
        served = Served(name="late", table=table, version=Version.of(1, model))
        answerer = Answerer(reader=_NoFeatures(), log=_NoLog(), clock=clock, new_id=lambda: "id")  # type: ignore[arg-type]
        self.answer: Callable[[bytes], bytes] = lambda body: answerer.answer(served, body, "request")

    def miss(self, row: Row) -> None:
        """As a request of one row goes: from columns of one value."""
        (key,) = row_keys(self._digest, [[value] for value in row], 1)
        if self.cache.get(key) is None:
            self.cache.put(key, {"probability": 0.5}, VALUE_BYTES)

    def fill(self, made: _Rows, rows: int) -> None:
        for _ in range(rows // BLOCK):
            for row in made.rows(BLOCK):
                self.miss(row)


class _NoFeatures:
    """All inputs come with the request."""

    def read(self, refs: Sequence[FeatureRef], keys: Mapping[str, Sequence[Any]], at_us: Sequence[int]) -> OnlineRows:
        return OnlineRows(columns={}, status={})

    def close(self) -> None:
        pass


class _NoLog:
    def append(self, record: Record) -> None:
        pass


def _model() -> Model:
    numeric = tuple(
        NumericInput(name=name, dtype="float64", mean=0.0, scale=1.0, indicator=False) for name in NAMES[:NUMBERS]
    )
    categorical = tuple(CategoricalInput(name=name, dtype="string", vocabulary=TEXTS) for name in NAMES[NUMBERS:])
    encoding, network = InputEncoding(numeric=numeric, categorical=categorical), mlp((64, 32))
    request = (
        *(Field(name=c.name, dtype="float64") for c in numeric),
        *(Field(name=c.name, dtype="string") for c in categorical),
    )
    signature = Signature(entities=(), request=request, features=(), outputs=BINARY.fields())
    return Model(
        network=network, weights=read_weights(build(network, encoding)), encoding=encoding, signature=signature
    )


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began
