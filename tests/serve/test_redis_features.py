"""An endpoint over a Redis: many callers at once, a server that pauses, one that is gone, and one that never answers."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplat import features as F
from mlplat.clock import SystemClock
from mlplat.features.pool import InProcess
from mlplat.features.reader import open_reader
from mlplat.features.store import FeatureStore
from mlplat.home import open_home
from mlplat.serve.lookup import Lookup
from mlplat.serve.policy import FeaturePolicy
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from tests.features.support import StillClock, after
from tests.redis_server import RedisServer, serving
from tests.serve.models import ROW, SIGNATURE, FakeModel
from tests.serve.rig import Rig, opened

observed = F.source("observed", key="origin", time="at")


@F.view(observed, ttl="1h")
class weather:
    wind: float = F.latest("wind")


NAMES = [f"A{i}" for i in range(60)]
AT = after(3_600).isoformat()
"""The even ones have expired a second ago."""


def filled(home: Path, online: str | None) -> None:
    store = FeatureStore(open_home(home), clock=StillClock(), pool=InProcess(), online=online)
    store.apply(weather)
    rows = [{"origin": name, "at": after(i % 2 - 1), "wind": float(i)} for i, name in enumerate(NAMES)]
    store.ingest(observed, rows)
    store.close()


@contextmanager
def answering(folder: Path, home: Path, url: str, policy: FeaturePolicy, *, threads: int = 4) -> Iterator[Rig]:
    with opened(folder) as rig:
        reader = open_reader(home, url)
        lookup = Lookup(reader, threads=threads)
        rig.app._answerer = replace(rig.app._answerer, reader=reader, lookup=lookup, clock=SystemClock())
        table = RoutingTable(epoch=1, salt="late", arms=(Arm(name=GOLD, version=3, share=1.0),))
        model = FakeModel(signature=replace(SIGNATURE, features=(weather.ref,)))
        rig.app.serve({"late": Served.of("late", table, [Version.of(3, model)], policy=policy)})
        yield rig
        lookup.close()
        reader.close()


def ask(rig: Rig, requests: Sequence[Sequence[str]], *, limit_s: float = 60.0) -> list[httpx.Response]:
    """All at once."""

    async def go() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=rig.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client, asyncio.timeout(limit_s):
            bodies = [{"rows": [{**ROW, "origin": name} for name in names], "at": AT} for names in requests]
            return await asyncio.gather(*(client.post("/predict/late", json=body) for body in bodies))

    return asyncio.run(go())


def statuses(responses: Sequence[httpx.Response]) -> set[str]:
    return {p["features"]["weather"] for response in responses for p in response.json()["predictions"]}


@pytest.mark.slow
@pytest.mark.parametrize("expired", ["null", "keep"])
def test_many_callers_at_once_get_what_each_gets_alone(redis_server: RedisServer, tmp_path: Path, expired: Any) -> None:
    filled(tmp_path / "home", redis_server.url)
    policy = FeaturePolicy(expired=expired, features_s=30.0)
    requests = [[NAMES[(7 * i + k) % len(NAMES)] for k in range(1 + i % 11)] for i in range(150)]
    with answering(tmp_path, tmp_path / "home", redis_server.url, policy) as rig:
        for names, response in zip(requests, ask(rig, requests), strict=True):
            for name, prediction in zip(names, response.json()["predictions"], strict=True):
                number = NAMES.index(name)
                seen = number if number % 2 or expired == "keep" else 0
                assert prediction["features"] == {"weather": "ok" if number % 2 else "expired"}
                assert prediction["outputs"]["probability"] == pytest.approx(0.1 + seen / 100)


@pytest.mark.slow
def test_a_server_that_stops_is_late_then_it_is_back_and_when_it_is_gone_it_is_unavailable(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        filled(tmp_path / "home", server.url)
        with answering(tmp_path, tmp_path / "home", server.url, FeaturePolicy(features_s=0.05), threads=2) as rig:
            server.process.send_signal(signal.SIGSTOP)
            found = ask(rig, [["A1"]] * 40)
            assert {response.status_code for response in found} == {200}
            assert statuses(found) == {"late"}
            server.process.send_signal(signal.SIGCONT)
            while statuses(ask(rig, [["A1"]])) != {"ok"}:
                pass
            server.process.kill()
            server.process.wait()
            found = ask(rig, [["A1"]] * 20)
            assert {response.status_code for response in found} == {200}
            assert statuses(found) <= {"unavailable", "late"}
            while statuses(ask(rig, [["A1"]])) != {"unavailable"}:
                pass


class Hung:
    """A server that takes every connection and never says a word."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listening.getsockname()[1]
        self.taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            self.taken.append(connection)
            if not connection.recv(1, socket.MSG_PEEK):
                connection.close()
                return

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join()
        self._listening.close()
        for connection in self.taken:
            connection.close()


@contextmanager
def hung() -> Iterator[Hung]:
    server = Hung()
    try:
        yield server
    finally:
        server.close()


@pytest.mark.slow
@pytest.mark.parametrize(("missing", "status"), [("null", 200), ("refuse", 503)])
def test_a_server_that_never_answers_hangs_no_request_and_takes_no_more_than_the_threads(
    tmp_path: Path, missing: Any, status: int
) -> None:
    filled(tmp_path / "home", None)
    policy = FeaturePolicy(missing=missing, features_s=0.1)
    with hung() as server:
        url = f"redis://127.0.0.1:{server.port}?socket_timeout=600"  # nothing but our own limit ends a wait
        with answering(tmp_path, tmp_path / "home", url, policy, threads=3) as rig:
            requests: list[Mapping[str, Any]] = []
            for _ in range(5):
                found = ask(rig, [["A1"]] * 100)
                assert {response.status_code for response in found} == {status}
                requests += [response.json() for response in found]
            assert len(server.taken) == 3
            assert rig.send("GET", "/healthz").status_code == 200
            said = {str(r["predictions"][0]["features"]) if status == 200 else r["error"]["code"] for r in requests}
            assert said == ({"{'weather': 'late'}"} if status == 200 else {"features_refused"})
            metrics = rig.send("GET", "/metrics").text
            name = "mlplat_feature_rows" if status == 200 else "mlplat_refused_feature_rows"
            assert f'{name}_total{{endpoint="late",status="late",view="weather"}} 500.0' in metrics
