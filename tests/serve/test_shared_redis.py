"""Answers shared by a real Redis: one that is killed, that hangs, that is full, and that holds other things."""

from __future__ import annotations

import asyncio
import logging
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import redis

from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput
from mlplat.serve.cache import Cache
from mlplat.serve.remembered import Values
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from mlplat.serve.shadow import Shadows
from mlplat.serve.shared import LIMIT_S, TTL_S, SharedAnswers
from mlplat.serve.shared_redis import connecting
from tests.redis_server import PASSWORD, RedisServer, serving
from tests.serve.models import ROW, FakeModel
from tests.serve.rig import Backing, Rig, at_once, opened
from tests.serve.shared_server import connected, sharing, written

pytestmark = pytest.mark.slow


@contextmanager
def answering(folder: Path, answers: SharedAnswers, backing: Backing) -> Iterator[Rig]:
    """An endpoint with a model in another process, as it is after a start."""
    with opened(folder) as rig:
        cache: Cache[Values] = Cache(max_bytes=1 << 20, clock=SystemClock())
        rig.app._answerer = replace(rig.app._answerer, clock=SystemClock())
        assert rig.app._metrics is not None
        rig.app._metrics.watch(lambda: rig.app.served, Shadows(rig.app._answerer, SystemClock()), answers)
        table = RoutingTable(epoch=1, salt="late", arms=(Arm(name=GOLD, version=3, share=1.0),))
        version = Version.of(3, FakeModel(), backing, cache=cache, shared=answers.of("late"))
        rig.app.serve({"late": Served.of("late", table, [version], cache=cache)})
        yield rig


class Caller:
    """Asks rows that differ in their distance; remembers how long each answer took."""

    def __init__(self, rig: Rig) -> None:
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app=rig.app), base_url="http://test")
        self.seconds: list[float] = []

    async def ask(self, distance: int) -> int:
        began_s = time.perf_counter()
        response = await self._client.post("/predict/late", json={"rows": [{**ROW, "distance": distance}]})
        self.seconds.append(time.perf_counter() - began_s)
        assert response.status_code == 200, response.text
        assert response.json()["predictions"][0]["outputs"] == {"probability": 0.5}
        return response.status_code

    async def metrics(self) -> str:
        return (await self._client.get("/metrics")).text


def test_an_endpoint_that_starts_again_knows_what_was_answered_and_another_home_does_not(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    home, other = uuid4().hex, uuid4().hex

    async def go(folder: str, home: str, *, known: bool) -> None:
        async with sharing(connecting(redis_server.url, home=home)) as answers:
            backing = Backing(at_once)
            with answering(tmp_path / folder, answers, backing) as rig:
                caller = Caller(rig)
                for i in range(10):
                    await caller.ask(i % 5)
                assert backing.rows == (0 if known else 5)
                said = await caller.metrics()
                result = "hit" if known else "miss"
                assert f'mlplat_shared_cache_rows_total{{endpoint="late",result="{result}"}} 5.0' in said
                assert 'mlplat_shared_cache_up{call="read"} 1.0' in said
                assert {row["cached"] for row in rig.logged()} == ({True} if known else {True, False})
            await written(answers)

    asyncio.run(go("first", home, known=False))
    asyncio.run(go("again", home, known=True))
    asyncio.run(go("elsewhere", other, known=False))
    with redis.Redis.from_url(redis_server.url) as raw:
        keys = list(raw.scan_iter(match=f"{home}*"))
        assert len(keys) == 5
        assert all(key.startswith(f"{home}#answers/".encode()) for key in keys)
        assert all(TTL_S - 60 < raw.ttl(key) <= TTL_S for key in keys)


def test_a_server_that_is_killed_under_load_fails_no_request_and_is_asked_again_when_it_is_back(tmp_path: Path) -> None:
    async def go(server: RedisServer) -> None:
        backing = Backing(at_once)
        async with sharing(connecting(server.url, home="home"), pause_s=0.01) as answers:
            with answering(tmp_path / "home", answers, backing) as rig:
                caller = Caller(rig)
                for round_ in range(6):
                    if round_ == 2:
                        server.process.kill()
                    await asyncio.gather(*(caller.ask(round_ * 200 + i) for i in range(200)))
                assert answers._reads.failures
                assert backing.rows == 1_200
                server.process.communicate()
                server.start()
                await connected(answers)
                await caller.ask(9_999)
                await written(answers)
                assert 'mlplat_shared_cache_up{call="write"} 1.0' in await caller.metrics()
        async with sharing(connecting(server.url, home="home")) as later:
            with answering(tmp_path / "later", later, backing) as rig:
                await Caller(rig).ask(9_999)
            assert later.of("late").rows == {"hit": 1}

    with serving(tmp_path) as server:
        asyncio.run(go(server))


def test_a_server_that_hangs_costs_a_request_its_short_time_and_then_nothing(tmp_path: Path) -> None:
    async def go(server: RedisServer) -> None:
        connect, backing = connecting(server.url, home="home"), Backing(at_once)
        async with sharing(connect, look_s=LIMIT_S / 2, pause_s=60.0) as answers:
            with answering(tmp_path / "home", answers, backing) as rig:
                caller = Caller(rig)
                server.process.send_signal(signal.SIGSTOP)
                for i in range(200):
                    await caller.ask(i)
                server.process.send_signal(signal.SIGCONT)
                assert backing.rows == 200
                assert answers._reads.failures == 1
                assert statistics.median(caller.seconds) < caller.seconds[0] < 1.0, (
                    "the first one waited, the others did not"
                )

    with serving(tmp_path) as server:
        asyncio.run(go(server))


def test_a_server_that_is_full_is_still_read(tmp_path: Path) -> None:
    async def go(server: RedisServer) -> None:
        backing = Backing(at_once)
        async with sharing(connecting(server.url, home="home"), pause_s=60.0) as answers:
            with answering(tmp_path / "home", answers, backing) as rig:
                await Caller(rig).ask(1)
                await written(answers)
            with redis.Redis.from_url(server.url) as raw:
                raw.config_set("maxmemory", 1)
            with answering(tmp_path / "later", answers, backing) as rig:
                await Caller(rig).ask(2)
                await written(answers)
                await Caller(rig).ask(1)
            assert backing.rows == 2
            assert (answers._writes.failures, answers._reads.failures) == (1, 0)

    with serving(tmp_path) as server:
        asyncio.run(go(server))


def test_what_others_left_under_a_key_is_a_miss(redis_server: RedisServer, tmp_path: Path) -> None:
    home = uuid4().hex

    async def go() -> None:
        backing = Backing(at_once)
        async with sharing(connecting(redis_server.url, home=home)) as answers:
            with answering(tmp_path / "home", answers, backing) as rig:
                for i in range(4):
                    await Caller(rig).ask(i)
                await written(answers)
            with redis.Redis.from_url(redis_server.url) as raw:
                one, two, three, four = raw.scan_iter(match=f"{home}*")
                other_s = raw.get(two)
                raw.delete(one)
                raw.rpush(one, "a list")
                raw.set(two, b"\x80\x04\x95pickled")
                raw.set(three, other_s)
                raw.set(four, b"")
            with answering(tmp_path / "later", answers, backing) as rig:
                for i in range(4):
                    await Caller(rig).ask(i)
            assert backing.rows == 8
            assert answers.of("late").rows == {"miss": 5, "corrupt": 3}
            assert answers._reads.failures == 0

    asyncio.run(go())


@pytest.mark.parametrize("wrong", ["password", "port"])
def test_a_server_that_lets_nobody_in_is_said_without_the_password(
    redis_server: RedisServer, tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = uuid4().hex
    url = redis_server.url.replace(PASSWORD, secret)
    if wrong == "port":
        url = url.replace(str(redis_server.port), "1")

    async def go() -> None:
        async with sharing(connecting(url, home="home"), pause_s=60.0) as answers:
            with answering(tmp_path / "home", answers, Backing(at_once)) as rig:
                await Caller(rig).ask(1)
                assert 'mlplat_shared_cache_up{call="read"} 0.0' in await Caller(rig).metrics()

    with caplog.at_level(logging.WARNING):
        asyncio.run(go())
    assert any(message.startswith("reading shared answers: the server fails (") for message in caplog.messages)
    assert secret not in caplog.text
    left = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(secret.encode() in file.read_bytes() for file in left)


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidInput, match="shared_cache='redis://h:port/0'") as caught:
        connecting("redis://:hunter2@h:port/0", home="home")
    assert "hunter2" not in str(caught.value)
