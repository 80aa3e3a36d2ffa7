"""Following a Kafka topic, against the broker that Kafka's client has for tests."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
import orjson
import pytest

from mlplat import features as F
from mlplat.errors import InvalidInput, NotFound, Unavailable
from mlplat.features import kafka
from mlplat.features.kafka import KafkaConsumer
from mlplat.features.stream import Follower
from mlplat.features.tables import EventTable
from tests.features.support import after, open_store

pytestmark = pytest.mark.slow

sales = F.source("sales", key="shop", time="at", id="order")
WAIT_S = 20.0


class Broker:
    def __init__(self) -> None:
        quiet = logging.getLogger("kafka-stand-in")
        quiet.setLevel(logging.CRITICAL)
        self._producer = confluent_kafka.Producer({"test.mock.num.brokers": 1}, logger=quiet)
        found = self._producer.list_topics(timeout=WAIT_S).brokers.values()
        self.servers = ",".join(f"{broker.host}:{broker.port}" for broker in found)

    def send(self, topic: str, values: Sequence[bytes], partition: int = 0) -> None:
        for value in values:
            self._producer.produce(topic, value=value, partition=partition)
        assert self._producer.flush(WAIT_S) == 0


@pytest.fixture(scope="module")
def broker() -> Broker:
    return Broker()


def sale(order: int) -> bytes:
    return orjson.dumps({"shop": "a", "order": order, "at": after(order).isoformat(), "price": 1.0})


def test_a_topic_is_followed_into_its_source_and_goes_on_where_it_was(broker: Broker, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    broker.send("sales", [sale(1), b"bad", sale(2)])
    broker.send("sales", [sale(3)], partition=1)
    for more in ([], [sale(4), sale(5)]):
        broker.send("sales", more)
        follower = Follower(sales, KafkaConsumer(broker.servers, "sales"), store._ingestion, orjson.loads)
        seen, wanted = 0, len(more) or 4
        while seen < wanted:
            seen += follower.step().records
        assert seen == wanted
        follower.close()
    store.flush()
    held = EventTable(tmp_path / "tables" / "sources" / "sales").read(["order"])
    assert sorted(held["order"].to_list()) == [1, 2, 3, 4, 5]
    assert store.quarantined(sales).select("_batch_id", "_position", "row").rows() == [("stream:sales/0", 1, '"bad"')]
    store.close()


def test_what_is_not_committed_comes_again(broker: Broker) -> None:
    broker.send("again", [b"a", b"b", b"c"])
    first = KafkaConsumer(broker.servers, "again")
    assert [r.value for r in first.poll(1, WAIT_S)] == [b"a"]
    first.commit({"again/0": 0})
    assert [r.value for r in first.poll(1, WAIT_S)] == [b"b"]
    first.close()
    second = KafkaConsumer(broker.servers, "again")
    assert [(r.value, r.offset, r.partition) for r in second.poll(1, WAIT_S)] == [(b"b", 1, "again/0")]
    second.close()
    other = KafkaConsumer(broker.servers, "again", group="other")
    assert [r.value for r in other.poll(1, WAIT_S)] == [b"a"]
    other.close()


def test_an_empty_topic_gives_nothing(broker: Broker) -> None:
    broker.send("empty", [b"x"])
    consumer = KafkaConsumer(broker.servers, "empty")
    consumer.poll(1, WAIT_S)
    assert consumer.poll(1, 0.0) == []
    consumer.close()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"topic": "sale"}, NotFound, "There is no topic 'sale'. Did you mean 'sales'"),
        ({"settings": {"group.id": "x"}}, InvalidInput, "setting 'group.id' is the consumer's own: leave it out"),
        ({"settings": {"nonsense": "x"}}, InvalidInput, "Kafka does not take these settings: .*nonsense"),
    ],
)
def test_a_consumer_that_cannot_be_is_refused(
    broker: Broker, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    broker.send("sales", [sale(1)])
    with pytest.raises(error, match=message):
        KafkaConsumer(broker.servers, **{"topic": "sales", **arguments})


def test_servers_that_do_not_answer_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ANSWER_S", 0.2)
    with pytest.raises(Unavailable, match=r"Kafka at 127.0.0.1:1, topic 'sales'"):
        KafkaConsumer("127.0.0.1:1", "sales")


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlplat.features.kafka")
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(InvalidInput, match=r"Kafka needs its client: pip install 'mlplat\[kafka\]'"):
        importlib.import_module("mlplat.features.kafka")
