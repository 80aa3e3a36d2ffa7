"""What only a Redis does: expiry, parts of its own, and errors of a server that is gone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
import redis

from mlplat import features as F
from mlplat.errors import Conflict, InvalidInput, Unavailable
from mlplat.features import redis_store
from mlplat.features.online import Lifetime
from mlplat.features.pool import InProcess
from mlplat.features.reader import open_reader
from mlplat.features.redis_store import GRACE_MS, RedisStore
from mlplat.features.store import FeatureStore
from mlplat.home import home_id, open_home
from tests.features.support import START_US, StillClock, after, open_store
from tests.redis_server import PASSWORD, RedisServer, serving

pytestmark = pytest.mark.slow

sales = F.source("sales", key="shop", time="at", id="order")


@F.view(sales)
class hourly:
    sold = F.count(window="1h")


@F.view(sales, ttl="2h")
class newest:
    price: float = F.latest("price")


def sale(order: int, price: float = 1.0) -> dict[str, Any]:
    return {"shop": "a", "order": order, "at": after(order), "price": price}


def on_redis(home: Path, url: str) -> FeatureStore:
    return FeatureStore(open_home(home), clock=StillClock(), pool=InProcess(), online=url)


def read(store: FeatureStore) -> tuple[Any, Any]:
    row = store.online([hourly, newest], {"shop": ["a"]}, at=after(100)).to_arrow().to_pylist()[0]
    return row["hourly.sold"], row["newest.price"]


def test_a_row_with_a_time_to_live_expires_a_day_after_it(redis_server: RedisServer) -> None:
    space = uuid4().hex
    store = RedisStore(redis_server.url, space=space)
    raw = redis.Redis.from_url(redis_server.url)
    now_ms = raw.time()[0] * 1_000
    later = Lifetime(event_us=(now_ms + 3_600_000) * 1_000, ttl_us=60_000_001)
    past = Lifetime(event_us=0, ttl_us=60_000_000)
    store.update([b"past", b"later", b"ever"], lambda _: [b"1", b"2", b"3"], lifetimes=[past, later, None])
    left = [raw.pttl(f"{space}/{name}") for name in ("past", "later", "ever")]
    assert GRACE_MS + 55_000 < left[0] <= GRACE_MS + 62_000
    assert GRACE_MS + 3_655_000 < left[1] <= GRACE_MS + 3_662_000
    assert left[2] == -1
    store.update([b"past"], lambda _: [b"4"])
    assert raw.pttl(f"{space}/past") == -1
    store.close()
    raw.close()


def test_the_views_row_carries_its_lifetime(redis_server: RedisServer, tmp_path: Path) -> None:
    store = on_redis(tmp_path, redis_server.url)
    store.apply(hourly, newest)
    store.ingest(sales, [sale(1)])
    with redis.Redis.from_url(redis_server.url) as raw:
        left = {key: raw.pttl(key) for key in raw.scan_iter(match=f"{home_id(tmp_path)}/*/sa")}
    assert sorted(ms > GRACE_MS for ms in left.values()) == [False, True]
    store.close()


def test_homes_share_a_server_and_not_their_features(redis_server: RedisServer, tmp_path: Path) -> None:
    one, other = on_redis(tmp_path / "one", redis_server.url), on_redis(tmp_path / "other", redis_server.url)
    for store, price in ((one, 1.0), (other, 2.0)):
        store.apply(hourly, newest)
        store.ingest(sales, [sale(1, price)])
    assert (read(one), read(other)) == ((1, 1.0), (1, 2.0))
    one.retire(newest)
    assert read(other) == (1, 2.0)
    one.close()
    other.close()


def test_another_online_store_is_made_of_the_tables_and_the_log(redis_server: RedisServer, tmp_path: Path) -> None:
    embedded = open_store(open_home(tmp_path))
    embedded.apply(hourly, newest)
    embedded.ingest(sales, [sale(1), sale(2)])
    embedded.close()
    store = on_redis(tmp_path, redis_server.url)
    assert read(store) == (2, 1.0)
    store.push(sales, sale(3, 3.0))
    reader = open_reader(tmp_path, redis_server.url)
    assert reader.read([newest.ref], {"shop": ["a"]}, [START_US + 10**8]).columns == {"newest.price": [3.0]}
    reader.close()
    store.close()
    again = open_store(tmp_path)  # its marks stand where it was left
    assert read(again) == (3, 3.0)
    again.close()


def test_a_server_that_lost_its_data_gets_it_back(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        store = on_redis(tmp_path / "home", server.url)
        store.apply(hourly, newest)
        store.ingest(sales, [sale(1)])
        server.stop()
        for call in (lambda: read(store), lambda: store.push(sales, sale(2, 2.0))):
            with pytest.raises(Unavailable, match=rf"redis://127.0.0.1:{server.port} does not answer") as caught:
                call()
            assert PASSWORD not in str(caught.value)
        server.start()
        # The push is durable in the log, although nobody could read it.
        store.close()
        store = on_redis(tmp_path / "home", server.url)
        assert read(store) == (2, 2.0)
        store.close()


def test_a_server_that_lost_its_data_while_events_come_gets_it_back_with_the_next(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        store = on_redis(tmp_path / "home", server.url)
        store.apply(hourly, newest)
        store.ingest(sales, [sale(1)])
        store.push(sales, sale(2, 2.0))
        server.stop()
        server.start()
        store.push(sales, sale(3, 3.0))
        assert read(store) == (3, 3.0)
        store.close()


def test_a_server_that_hangs_is_unavailable(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url + "?socket_timeout=0.05", space=uuid4().hex)
    store.get([b"a"])
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.client_pause(400)
        with pytest.raises(Unavailable, match="Timeout"):
            store.update([b"a"], lambda _: [b"1"])
        raw.client_unpause()
    store.close()


def test_a_wrong_password_is_unavailable_and_not_shown(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url.replace(PASSWORD, "letmein"), space="s")
    with pytest.raises(Unavailable, match="invalid username-password pair") as caught:
        store.get([b"a"])
    assert "letmein" not in str(caught.value)
    store.close()


def test_a_key_that_others_never_leave_alone_is_a_conflict(redis_server: RedisServer) -> None:
    store, other = (RedisStore(redis_server.url, space="busy") for _ in range(2))
    turn = iter(range(1_000))

    def meddle(_: list[bytes | None]) -> list[bytes]:
        other.update([b"a"], lambda _: [b"%d" % next(turn)])
        return [b"mine"]

    with pytest.raises(Conflict, match=r"1 blobs at redis://127\.0\.0\.1:.* were changed by others 100 times"):
        store.update([b"a"], meddle)
    store.close()
    other.close()


def test_a_url_that_cannot_be_read_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidInput, match=r"online='redis://host:6379': Invalid value for 'socket_timeout'") as caught:
        RedisStore("redis://:hunter2@host:6379?socket_timeout=soon", space="s")
    assert PASSWORD not in str(caught.value)


def test_the_library_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(InvalidInput, match=r"pip install 'mlplat\[redis\]'"):
        redis_store.RedisStore("redis://host", space="s")


def test_a_join_and_an_online_read_give_the_same(redis_server: RedisServer, tmp_path: Path) -> None:
    store = on_redis(tmp_path, redis_server.url)
    store.apply(hourly, newest)
    store.ingest(sales, [sale(i, float(i)) for i in range(10)])
    store.push(sales, [sale(i, float(i)) for i in range(10, 20)])
    joined = store.join(pl.DataFrame({"shop": ["a"], "at": [after(100)]}), [hourly, newest], time="at")
    assert (joined["hourly.sold"][0], joined["newest.price"][0]) == read(store) == (20, 19.0)
    store.close()
