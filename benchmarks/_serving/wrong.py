"""Answers that are not right, and units that are not where they belong: counted, none is the bound."""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks._figures import Figures, Scene
from mlplat.clock import SystemClock
from mlplat.features.online import FeatureReader, OnlineRows
from mlplat.model.signature import FeatureRef, Field, Signature
from mlplat.serve import state
from mlplat.serve.answer import Answerer
from mlplat.serve.backbone import Coalesced, Columns, Outputs
from mlplat.serve.cache import Cache
from mlplat.serve.log import Record
from mlplat.serve.routing import GOLD, Arm, RoutingTable, assign_all
from mlplat.serve.served import Served, Version
from mlplat.serve.state import Entry, Member

ENTITIES, VERSIONS, TOGETHER = 50, 4, 64
SHARES = (0.01, 0.10, 0.50)
SIGNATURE = Signature(
    entities=(Field(name="user", dtype="int64", required=True),),
    request=(Field(name="size", dtype="int64", required=True),),
    features=(FeatureRef(view="v", version="1", keys=("user",), fields=(Field(name="f", dtype="int64"),)),),
    outputs=(Field(name="probability", dtype="float64", required=True),),
)


def cache(scene: Scene) -> Figures:
    """Requests that overlap on one loop, a new feature value and a new table between them all the time. Every answer has to be
    the one that its version gives for the request and for a feature value of the time between question and answer."""
    return asyncio.run(_Flipping(scene.size(100_000, 2_000)).run())


@dataclass(frozen=True)
class _Exact:
    """Names version, size and feature in its answer."""

    number: int
    signature: Signature = SIGNATURE

    @property
    def digest(self) -> str:
        return f"{self.number:064d}"

    def predict(self, columns: Columns) -> Mapping[str, Any]:
        pairs = zip(columns["size"], columns["v.f"], strict=True)
        return {"probability": np.array([_answer(self.number, size, f) for size, f in pairs])}


def _answer(version: int, size: int, feature: int) -> float:
    return version * 1e12 + size * 1e9 + feature


@dataclass
class _Features(FeatureReader):
    """The value of an entity is its number and the turn, which goes on."""

    turn: int = 0

    def read(
        self,
        refs: Sequence[FeatureRef],
        keys: Mapping[str, Sequence[Any]],
        at_us: Sequence[int],
        keep: Collection[str] = (),
    ) -> OnlineRows:
        values = [feature(user, self.turn) for user in keys["user"]]
        return OnlineRows(columns={"v.f": values}, status={"v": ["ok"] * len(values)})


def feature(user: int, turn: int) -> int:
    """Three values come again and again, so that old answers are in the cache and may be given."""
    return user * 10 + turn % 3


@dataclass
class _Log:
    cached: int = 0

    def append(self, record: Record) -> None:
        at = record.schema.get_field_index("cached")
        self.cached += sum(line[at] for line in record.lines)


@dataclass
class _Flipping:
    requests: int
    wrong: int = 0
    asked: int = 0
    epoch: int = 0
    flips: int = 0
    features: _Features = field(default_factory=_Features)
    log: _Log = field(default_factory=_Log)

    def __post_init__(self) -> None:
        clock = SystemClock()
        self.rng = np.random.default_rng(11)
        kept: Cache[Any] = Cache(max_bytes=1 << 18, clock=clock)
        self.versions = [
            Version.of(n, _Exact(n), Coalesced(self._calling(_Exact(n))) if n % 2 else None, cache=kept)
            for n in range(1, VERSIONS + 1)
        ]
        self.answerer = Answerer(
            reader=self.features,
            log=self.log,  # type: ignore[arg-type]
            clock=clock,
            new_id=lambda: "id",
        )
        self.gold: list[int] = []
        self._flip()

    async def run(self) -> Figures:
        await asyncio.gather(*(self._ask() for _ in range(TOGETHER)))
        note = f"{self.asked:,} requests, {self.flips:,} flips, {self.log.cached:,} answered from the cache"
        return Figures(ours=float(self.wrong), wrong="" if self.log.cached else "nothing was cached", note=note)

    async def _ask(self) -> None:
        while self.asked < self.requests:
            self.asked += 1
            if self.asked % 7 == 0:
                self._flip()
            user, size = (int(value) for value in self.rng.integers(0, ENTITIES, 2))
            size %= 5
            served, begun = self.served, self.features.turn
            body = orjson.dumps({"rows": [{"user": user, "size": size}, {"user": user, "size": size + 100}]})
            found = json.loads(await self.answerer.answer(served, body, "request"))["predictions"]
            turns = range(begun, self.features.turn + 1)
            for asked, prediction in zip((size, size + 100), found, strict=True):
                version = prediction["model"]["version"]
                right = {_answer(version, asked, feature(user, turn)) for turn in turns}
                self.wrong += prediction["outputs"]["probability"] not in right or version not in served.table.versions

    def _flip(self) -> None:
        """Another gold and another experiment, and other features."""
        self.flips += 1
        self.epoch += 1
        self.features.turn += 1
        gold, other = (int(n) for n in self.rng.permutation(VERSIONS)[:2] + 1)
        arms = (Arm(name=GOLD, version=gold, share=0.7), Arm(name="other", version=other, share=0.3))
        table = RoutingTable(epoch=self.epoch, salt="late", arms=arms)
        self.served = Served.of("late", table, self.versions)

    @staticmethod
    def _calling(model: _Exact) -> Any:
        async def call(columns: Columns, rows: int) -> Outputs:
            await asyncio.sleep(0)
            return {name: values.tolist() for name, values in model.predict(columns).items()}

        return call


def split(scene: Scene) -> Figures:
    """Units of two experiments beside gold, by the record in a home, in this process and in two that are started for it."""
    units = scene.size(100_000, 5_000)
    wrong, said = 0, []
    before: list[str] = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as replicas:
        for share in SHARES:
            _record(scene.folder, share)
            found = _arms(scene.folder, units)
            others = replicas.map(_arms, [scene.folder] * 2, [units] * 2)
            loose = sum(a != b for other in others for a, b in zip(found, other, strict=True))
            left = Counter(was for was, now in zip(before, found, strict=False) if was not in (GOLD, now))
            p = _chi_square_p(Counter(found), {GOLD: 1 - 1.5 * share, "one": share, "two": share / 2}, units)
            wrong += loose + left.total() + (p <= 0.001)
            said.append(f"{share:.0%}: p = {p:.3f}, not sticky {loose:,}, not nested {dict(left)}")
            before = found
    return Figures(ours=float(wrong), note="; ".join(said))


def _record(home: Path, share: float) -> None:
    first = Entry(name="late", version=1, digest="d" * 64, path="/", url="", cluster="")
    entry = state.read(home).get("late", first)
    for number, (name, part) in enumerate((("one", share), ("two", share / 2)), 2):
        entry = entry.with_member(
            Member(name=name, role="experiment", version=number, digest="d" * 64, path="/", share=part)
        )
    state.put(home, entry)


def _arms(home: Path, units: int) -> list[str]:
    table = state.read(home)["late"].table()
    return [assigned.arm.name for assigned in assign_all(table, [f"unit-{i}" for i in range(units)])]


def _chi_square_p(found: Mapping[str, int], shares: Mapping[str, float], units: int) -> float:
    """Of three arms: two degrees of freedom, whose tail is an exponential."""
    return math.exp(-sum((found[arm] - units * s) ** 2 / (units * s) for arm, s in shares.items()) / 2)
