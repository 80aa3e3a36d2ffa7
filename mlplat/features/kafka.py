"""A Kafka topic as a stream (needs the extra `kafka`).

The consumer takes every partition of its topic, and its place is kept by Kafka under the name of its group. Kafka does not
hand partitions out among consumers here: a source has one follower, and a second one would only do its work twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mlplat.errors import InvalidInput, Unavailable, unknown
from mlplat.features.stream import Record

try:
    import confluent_kafka
except ImportError as error:
    raise InvalidInput("Kafka needs its client: pip install 'mlplat[kafka]'") from error

ANSWER_S = 10.0
REFRESH_POLLS = 100
_LOG = logging.getLogger(__name__)
_OURS = ("bootstrap.servers", "group.id", "enable.auto.commit", "auto.offset.reset")
_Answer = TypeVar("_Answer")


class KafkaConsumer:
    """A `StreamConsumer` of one topic, from its beginning the first time.

    `servers` is "host:port,host:port"; `settings` are librdkafka's, such as those of TLS and SASL. Raises `NotFound` for a
    topic that is not there, `Unavailable` if no server answers.
    """

    def __init__(
        self, servers: str, topic: str, *, group: str = "mlplat", settings: Mapping[str, Any] | None = None
    ) -> None:
        settings = dict(settings or {})
        if ours := [name for name in _OURS if name in settings]:
            raise InvalidInput(f"setting {ours[0]!r} is the consumer's own: leave it out")
        self._topic = topic
        self._servers = servers
        own = {"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False}
        try:
            self._client = confluent_kafka.Consumer({**settings, **own, "auto.offset.reset": "earliest"}, logger=_LOG)
        except (confluent_kafka.KafkaException, ValueError) as error:
            raise InvalidInput(f"Kafka does not take these settings: {error}") from None
        self._polls = 0
        self._partitions: set[int] = set()
        self._take_partitions()

    def poll(self, limit: int, timeout_s: float) -> Sequence[Record]:
        self._polls += 1
        if self._polls % REFRESH_POLLS == 0:
            self._take_partitions()
        first = self._client.poll(timeout_s)
        if first is None:
            return []
        messages = [first, *self._client.consume(limit - 1, timeout=0.0)] if limit > 1 else [first]
        return [self._record(message) for message in messages]

    def commit(self, offsets: Mapping[str, int]) -> None:
        done = [self._place(int(name.rpartition("/")[2]), offset + 1) for name, offset in offsets.items()]
        for place in self._ask(lambda: self._client.commit(offsets=done, asynchronous=False)):
            if place.error is not None:
                raise self._unavailable(place.error)

    def close(self) -> None:
        self._client.close()

    def _record(self, message: Any) -> Record:
        if message.error() is not None:
            raise self._unavailable(message.error())
        partition = f"{self._topic}/{message.partition()}"
        return Record(partition=partition, offset=message.offset(), value=message.value() or b"")

    def _take_partitions(self) -> None:
        """All that the topic has, where they are new, from behind what is committed."""
        known = self._ask(lambda: self._client.list_topics(timeout=ANSWER_S)).topics
        if self._topic not in known:
            self.close()
            raise unknown("topic", self._topic, known, remedy=f"These are the topics at {self._servers}.")
        new = set(known[self._topic].partitions) - self._partitions
        if new:
            places = [self._place(number, confluent_kafka.OFFSET_STORED) for number in sorted(new)]
            committed = self._ask(lambda: self._client.committed(places, timeout=ANSWER_S))
            self._client.incremental_assign(committed)
            self._partitions |= new

    def _place(self, partition: int, offset: int) -> Any:
        return confluent_kafka.TopicPartition(self._topic, partition, offset)

    def _ask(self, question: Callable[[], _Answer]) -> _Answer:
        try:
            return question()
        except confluent_kafka.KafkaException as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: object) -> Unavailable:
        return Unavailable(f"Kafka at {self._servers}, topic {self._topic!r}: {error}")
