"""Streams of events: the port that a consumer fills, and what follows one into a source.

A record is committed once it is durable here, never before. So a crash brings some records again, and they count once:
their events have ids, and bad ones are known by their place in the stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlplat.features.definitions import Source
from mlplat.features.ingestion import Ingestion
from mlplat.features.quarantine import BadRow, as_text

POLL_RECORDS = 1_000
POLL_S = 0.5

Decode = Callable[[bytes], Any]
"""Makes a row, a mapping, of a record's bytes; raises what it likes if it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`offset` is its place in its `partition` of the stream, and grows."""

    partition: str
    offset: int
    value: bytes


class StreamConsumer(Protocol):
    """One reader of a stream, used by one thread at a time. Where it is in the stream outlives it, by `commit`."""

    def poll(self, limit: int, timeout_s: float) -> Sequence[Record]:
        """The next records, at most `limit`, in order within their partition; none after waiting for `timeout_s`.

        The first poll begins behind what was last committed. Raises `Unavailable` if the stream does not answer.
        """

    def commit(self, offsets: Mapping[str, int]) -> None:
        """By partition, the offset up to which, and with which, records are done. Durable when it returns."""

    def close(self) -> None:
        """Nothing is committed by it."""


class MemoryStream:
    """A stream in this process. Consumers of one group share its place."""

    def __init__(self) -> None:
        self._records: dict[str, list[bytes]] = {}
        self._done: dict[tuple[str, str], int] = {}
        self._change = threading.Condition()

    def send(self, values: Iterable[bytes], *, partition: str = "0") -> None:
        with self._change:
            self._records.setdefault(partition, []).extend(values)
            self._change.notify_all()

    def consumer(self, group: str = "mlplat") -> MemoryConsumer:
        return MemoryConsumer(self, group)

    def committed(self, group: str = "mlplat", *, partition: str = "0") -> int:
        """The last offset that the group is done with; -1 before the first."""
        with self._change:
            return self._done.get((group, partition), -1)


class MemoryConsumer:
    """A `StreamConsumer` of a `MemoryStream`."""

    def __init__(self, stream: MemoryStream, group: str) -> None:
        self._stream = stream
        self._group = group
        self._next: dict[str, int] = {}

    def poll(self, limit: int, timeout_s: float) -> Sequence[Record]:
        with self._stream._change:
            self._stream._change.wait_for(self._waiting, timeout_s)
            found: list[Record] = []
            for partition, values in sorted(self._stream._records.items()):
                at = self._place(partition)
                for value in values[at : at + limit - len(found)]:
                    found.append(Record(partition=partition, offset=at, value=value))
                    at += 1
                self._next[partition] = at
            return found

    def commit(self, offsets: Mapping[str, int]) -> None:
        with self._stream._change:
            self._stream._done.update({(self._group, partition): offset for partition, offset in offsets.items()})

    def close(self) -> None:
        self._next.clear()

    def _place(self, partition: str) -> int:
        return self._next.get(partition, self._stream._done.get((self._group, partition), -1) + 1)

    def _waiting(self) -> bool:
        return any(len(values) > self._place(partition) for partition, values in self._stream._records.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How far it has come: records that were read, and those of them that were set aside."""

    records: int = 0
    quarantined: int = 0


class Follower:
    """Carries records of a stream into a source, a poll at a time."""

    def __init__(self, source: Source, consumer: StreamConsumer, ingestion: Ingestion, decode: Decode) -> None:
        self._source = source
        self._consumer = consumer
        self._ingestion = ingestion
        self._decode = decode

    def step(self) -> Followed:
        """One poll: push the good, set the bad aside, then commit."""
        records = self._consumer.poll(POLL_RECORDS, POLL_S)
        if not records:
            return Followed()
        bad: dict[int, BadRow] = {}
        rows: dict[int, Mapping[str, Any]] = {}
        for at, record in enumerate(records):
            row, reason = self._decoded(record)
            if reason is None:
                rows[at] = row
            else:
                bad[at] = BadRow(position=record.offset, reason=reason, row=as_text(_shown(record.value)))
        places = list(rows)
        for at, reason in self._ingestion.push_good(self._source, list(rows.values())).items():
            record = records[places[at]]
            bad[places[at]] = BadRow(position=record.offset, reason=reason, row=as_text(rows[places[at]]))
        self._set_aside(records, bad)
        self._consumer.commit({record.partition: record.offset for record in records})
        return Followed(records=len(records), quarantined=len(bad))

    def close(self) -> None:
        self._consumer.close()

    def _decoded(self, record: Record) -> tuple[Mapping[str, Any], str | None]:
        try:
            row = self._decode(record.value)
        except Exception as error:  # noqa: BLE001 - a decoder is the user's, and what it raises is the reason
            return {}, f"cannot be decoded: {type(error).__name__}: {error}"
        if not isinstance(row, Mapping):
            return {}, f"is {type(row).__name__}, and a row is an object with names"
        return row, None

    def _set_aside(self, records: Sequence[Record], bad: Mapping[int, BadRow]) -> None:
        for partition in sorted({records[at].partition for at in bad}):
            mine = [row for at, row in sorted(bad.items()) if records[at].partition == partition]
            self._ingestion.quarantine(self._source).add(f"stream:{partition}", mine)


class Following:
    """A thread that follows a stream until it is stopped, or cannot go on."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._so_far = Followed()
        self._error: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlplat-follow", daemon=True)
        self._thread.start()

    def status(self) -> Followed:
        """How far it has come. Raises what ended it, if something did; to go on, follow again."""
        if self._error is not None:
            raise self._error
        return self._so_far

    def stop(self) -> Followed:
        """End after the records in hand, and close the consumer."""
        self._stopping.set()
        self._thread.join()
        return self.status()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                done = self._follower.step()
                self._so_far = Followed(
                    records=self._so_far.records + done.records,
                    quarantined=self._so_far.quarantined + done.quarantined,
                )
        except Exception as error:  # noqa: BLE001 - status() and stop() raise it
            self._error = error
        finally:
            self._follower.close()


def _shown(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
