"""An app over fakes, asked in process: for the tests of its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from mlplat.clock import Clock
from mlplat.serve.answer import Answerer
from mlplat.serve.app import App
from mlplat.serve.http import LIMITS, BodyLimits
from mlplat.serve.log import PredictionLog, read_log
from mlplat.serve.metrics import Metrics
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from tests.serve.models import SIGNATURE, FakeModel, FakeReader

NOW_US = 1_378_029_600_000_000
JSON = {"content-type": "application/json"}


@dataclass
class StoppedClock:
    """The time of day stands at `now`, or wherever somebody puts it."""

    now: int = NOW_US

    def now_us(self) -> int:
        return self.now

    def elapsed_s(self) -> float:
        return 0.0


def served(version: int = 3, model: Any = None) -> Served:
    table = RoutingTable(epoch=version, salt="late", arms=(Arm(name=GOLD, version=version, share=1.0),))
    return Served.of("late", table, [Version.of(version, model or FakeModel())])


@dataclass
class Rig:
    app: App
    home: Path
    log: PredictionLog
    reader: FakeReader

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(go())

    def predict(self, *rows: Mapping[str, Any], **envelope: Any) -> httpx.Response:
        return self.send("POST", "/predict/late", json={"rows": rows, **envelope})

    def logged(self) -> list[dict[str, Any]]:
        self.log.flush()
        return list(read_log(self.home, "late").to_pylist())


@contextmanager
def opened(home: Path, *, clock: Clock | None = None, body: BodyLimits = LIMITS, **options: Any) -> Iterator[Rig]:
    log, reader, ids = PredictionLog(home), FakeReader(), count()
    metrics = Metrics(log)
    answerer = Answerer(
        reader=reader,
        log=log,
        clock=clock or StoppedClock(),
        new_id=lambda: f"id{next(ids)}",
        count=metrics.failed,
        told=metrics.answered,
    )
    app = App(answerer, {"late": replace(served(), body=body)}, metrics=metrics, on_stop=log.close, **options)
    yield Rig(app=app, home=home, log=log, reader=reader)
    log.close()


class Backing:
    """A backbone that does what it is told to, and remembers how many rows it had."""

    def __init__(self, act: Callable[[], Awaitable[None]], value: float = 0.5) -> None:
        self.act, self.value, self.rows = act, value, 0

    async def predict(self, columns: Any, rows: int) -> dict[str, list[float]]:
        self.rows += rows
        await self.act()
        return {"probability": [self.value] * rows}

    async def close(self) -> None: ...


async def at_once() -> None: ...


async def never() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise RuntimeError("the graphics card fell out")


def split(challenger: Any, share: float = 0.5, *, signature: Any = SIGNATURE, **limits: float) -> Served:
    arms = (Arm(name=GOLD, version=3, share=1 - share), Arm(name="new", version=4, share=share))
    other = Version.of(4, FakeModel(signature=signature, digest="e" * 64), challenger)
    return Served.of(
        "late", RoutingTable(epoch=4, salt="late", arms=arms), [Version.of(3, FakeModel()), other], **limits
    )
