"""Following a stream: durable before it is committed, once each, and the bad records aside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from mlplat import features as F
from mlplat.errors import Unavailable
from mlplat.features import stream as streams
from mlplat.features.store import FeatureStore
from mlplat.features.stream import Followed, Follower, MemoryConsumer, MemoryStream
from mlplat.features.tables import EventTable
from tests.features.support import after, open_store

sales = F.source("sales", key="shop", time="at", id="order")


@F.view(sales)
class hourly:
    sold = F.count(window="1h")


def sale(order: int, **more: Any) -> bytes:
    return orjson.dumps({"shop": "a", "order": order, "at": after(order).isoformat(), "price": 1.0, **more})


class Told(MemoryConsumer):
    """Says when something is committed, or fails to commit."""

    def __init__(self, stream: MemoryStream, fail: Exception | None = None) -> None:
        super().__init__(stream, "mlplat")
        self.committed = threading.Event()
        self._fail = fail

    def commit(self, offsets: Mapping[str, int]) -> None:
        if self._fail is not None:
            raise self._fail
        super().commit(offsets)
        self.committed.set()


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = open_store(tmp_path)
    made.apply(hourly)
    yield made
    made.close()


def orders(store: FeatureStore) -> list[int]:
    store.flush()
    return sorted(EventTable(store._home / "tables" / "sources" / "sales").read(["order"])["order"].to_list())


def sold(store: FeatureStore) -> int:
    return int(store.online(hourly, {"shop": ["a"]}, at=after(100)).to_arrow()["sold"].to_pylist()[0])


def step(store: FeatureStore, consumer: MemoryConsumer) -> Followed:
    return Follower(sales, consumer, store._ingestion, orjson.loads).step()


@pytest.mark.slow
def test_records_become_events_and_bad_ones_do_not_block_the_stream(store: FeatureStore) -> None:
    stream, consumer = MemoryStream(), None
    stream.send([b"{no json", b"[1]", sale(1), sale(2), sale(3, price="dear", colour="red")])
    stream.send([sale(4), b"\xff"], partition="1")
    consumer = Told(stream)
    following = store.follow(sales, consumer)
    assert consumer.committed.wait(30)
    done = following.stop()
    assert (done.records, done.quarantined) == (7, 4)
    assert orders(store) == [1, 2, 4]
    assert sold(store) == 3
    bad = store.quarantined(sales).sort("_batch_id", "_position")
    assert bad.select("_batch_id", "_position").rows() == [
        ("stream:0", 0),
        ("stream:0", 1),
        ("stream:0", 4),
        ("stream:1", 1),
    ]
    reasons = bad["_reason"].to_list()
    assert reasons[0].startswith("cannot be decoded: JSONDecodeError")
    assert reasons[1] == "is list, and a row is an object with names"
    assert reasons[2] == "colour: the table has no such column; price: is 'dear', and the table has floats"
    assert bad["row"].to_list()[0] == '"{no json"'
    assert orjson.loads(bad["row"][2])["colour"] == "red"
    assert (stream.committed(), stream.committed(partition="1")) == (4, 1)


@pytest.mark.slow
def test_a_record_that_comes_again_after_a_crash_counts_once(store: FeatureStore) -> None:
    stream = MemoryStream()
    stream.send([sale(1), sale(2), b"bad"])
    with pytest.raises(Unavailable, match="gone"):
        step(store, Told(stream, Unavailable("the broker is gone")))
    assert stream.committed() == -1
    stream.send([sale(3)])
    for _ in range(2):
        assert step(store, Told(stream)).records in (4, 0)
    assert (orders(store), sold(store), stream.committed()) == ([1, 2, 3], 3, 3)
    assert store.quarantined(sales)["_position"].to_list() == [2]


def test_nothing_is_committed_before_it_is_durable(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MemoryStream()
    stream.send([sale(1)])
    step(store, Told(stream))
    stream.send([sale(2)])

    def fails(*_: Any) -> None:
        raise Unavailable("the log is full")

    monkeypatch.setattr(store._ingestion._log, "append", fails)
    with pytest.raises(Unavailable, match="the log is full"):
        step(store, Told(stream))
    assert stream.committed() == 0


@pytest.mark.parametrize("error", [Unavailable("the broker is gone"), ValueError("a bug")])
def test_what_ends_the_following_is_raised_to_who_asks(store: FeatureStore, error: Exception) -> None:
    stream = MemoryStream()
    stream.send([sale(1)])
    following = store.follow(sales, Told(stream, error))
    following._thread.join(30)
    asks: list[Callable[[], Any]] = [following.status, following.stop]
    for ask in asks:
        with pytest.raises(type(error), match=str(error)):
            ask()


def test_the_first_rows_of_a_source_may_be_bad(store: FeatureStore) -> None:
    stream = MemoryStream()
    stream.send([sale(0, price=None), sale(1, shop=None), sale(2), sale(3, shop=None)])
    assert step(store, Told(stream)) == Followed(records=4, quarantined=3)
    assert orders(store) == [2]
    assert "price: has only nulls, so it has no type yet" in store.quarantined(sales)["_reason"][0]


def test_a_poll_takes_what_it_may_and_waits_no_longer_than_told() -> None:
    stream = MemoryStream()
    consumer = stream.consumer()
    assert consumer.poll(5, 0.0) == []
    stream.send([b"a", b"b", b"c"])
    assert [r.value for r in consumer.poll(2, 0.0)] == [b"a", b"b"]
    assert [(r.value, r.offset) for r in consumer.poll(2, 0.0)] == [(b"c", 2)]
    consumer.close()
    assert [r.value for r in stream.consumer("other").poll(9, 0.0)] == [b"a", b"b", b"c"]
    assert streams.POLL_RECORDS >= 1
