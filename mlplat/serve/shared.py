"""The second level of the cache: answers that all clusters of a home share, and that outlive each, on a server.

A key says all that an answer depends on, so no answer is ever out of date, and there is nothing to keep in step. The server
is asked for what the first level does not have, before the model is; it is told what the model said, after the answer has
left. It may be slow, hung, full, gone, or hold anything: then a request is answered as if it were not there, a moment later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlplat.errors import Unavailable
from mlplat.serve.backbone import Coalesced, Columns, Outputs
from mlplat.serve.line import PAUSE_S, Connect, Connection, Line
from mlplat.serve.sealed import seal, unseal

LIMIT_S = 0.02
"""How much later an answer may be because the server was asked."""
TTL_S = 86_400
"""An entry's time on the server. The first level keeps for ever; here somebody may start again with other libraries."""
MAX_ROWS = 1_024
"""Of one look, and that wait for the next one."""
MAX_WRITES = 4_096
WRITE_ROWS = 256
WRITE_S = 1.0

Answers = Mapping[bytes, tuple[Any, ...]]


class SharedAnswers:
    """Looks of all that ask meanwhile go together in the next one, so that there is one under way; what is to be written does
    too. Each has a connection of its own: a server that takes no writes is still read. For one event loop.

    `look_s` is half of what a request may wait, which has at most the look under way and its own before it.
    """

    def __init__(self, connect: Connect, *, look_s: float = LIMIT_S / 2, pause_s: float = PAUSE_S) -> None:
        self._look_s = look_s
        self._reads = Line(connect, what="reading shared answers", pause_s=pause_s)
        self._writes = Line(connect, what="writing shared answers", pause_s=pause_s)
        self._looks = Coalesced(self._look, max_rows=MAX_ROWS, max_waiting=MAX_ROWS)
        self._waiting: asyncio.Queue[tuple[bytes, tuple[Any, ...]]] = asyncio.Queue(MAX_WRITES)
        self._shares: dict[str, Share] = {}
        self.written: Counter[str] = Counter()

    def of(self, name: str) -> Share:
        """The part of an endpoint: the same answers, counted for it."""
        return self._shares.setdefault(name, Share(self))

    async def run(self) -> None:
        """For ever: keeps the connections, and writes."""
        async with asyncio.TaskGroup() as lines:
            lines.create_task(self._reads.run())
            lines.create_task(self._writes.run())
            await self._write()  # here: it is cancelled before its connection is closed

    async def look(self, keys: Sequence[bytes]) -> Sequence[bytes | None] | None:
        """What the server has; None if it was not asked, or did not say."""
        if not self._reads.up:
            return None
        try:
            outputs = await self._looks.predict({"key": keys}, len(keys))
        except Unavailable:  # too many wait already
            return None
        return outputs["blob"] if all(outputs["said"]) else None

    def put(self, answers: Answers) -> None:
        """Write them when there is time. Whoever calls never waits, and what there is no room for is not written."""
        if not self._writes.up or self._waiting.qsize() + len(answers) > MAX_WRITES:
            self.written["dropped"] += len(answers)
            return
        for pair in answers.items():
            self._waiting.put_nowait(pair)

    def collect(self) -> Iterator[Metric]:
        rows = CounterMetricFamily(
            "mlplat_shared_cache_rows",
            "Rows whose answer the endpoint's own cache did not have, by what the shared one said: hit, miss, corrupt, or "
            "unasked, because it failed or has too much to do.",
            labels=("endpoint", "result"),
        )
        for name, share in self._shares.items():
            for result, count in share.rows.items():
                rows.add_metric((name, result), count)
        written = CounterMetricFamily(
            "mlplat_shared_cache_writes", "Answers for the shared cache: written or dropped.", labels=("result",)
        )
        for result, count in self.written.items():
            written.add_metric((result,), count)
        failures = CounterMetricFamily(
            "mlplat_shared_cache_failures", "Failures of the shared cache's server, late answers too.", labels=("call",)
        )
        up = GaugeMetricFamily(
            "mlplat_shared_cache_up", "1 while the shared cache's server is asked.", labels=("call",)
        )
        for call, line in (("read", self._reads), ("write", self._writes)):
            failures.add_metric((call,), line.failures)
            up.add_metric((call,), line.up)
        yield from (rows, written, failures, up)

    async def _look(self, columns: Columns, rows: int) -> Outputs:
        found = await self._reads.call(partial(_get, columns["key"]), limit_s=self._look_s)
        return {"blob": [None] * rows if found is None else found, "said": [found is not None] * rows}

    async def _write(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < WRITE_ROWS and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            sealed = [(key, blob) for key, values in batch if (blob := seal(key, values)) is not None]
            done = await self._writes.call(partial(_put, sealed), limit_s=WRITE_S) if sealed else None
            written = len(sealed) if done else 0
            self.written["written"] += written
            self.written["dropped"] += len(batch) - written
            for _ in batch:
                self._waiting.task_done()


class Share:
    """Of one endpoint. `rows` counts what it asked for by what it was told."""

    def __init__(self, answers: SharedAnswers) -> None:
        self._answers = answers
        self.rows: Counter[str] = Counter()

    async def get(self, keys: Sequence[bytes], width: int) -> Answers:
        """The answers, of `width` outputs, that are known, by their keys. Raises nothing, and never waits long."""
        blobs = await self._answers.look(keys)
        if blobs is None:
            self.rows["unasked"] += len(keys)
            return {}
        found = {}
        for key, blob in zip(keys, blobs, strict=True):
            values = None if blob is None else unseal(key, blob, width)
            self.rows["miss" if blob is None else "corrupt" if values is None else "hit"] += 1
            if values is not None:
                found[key] = values
        return found

    def put(self, answers: Answers) -> None:
        self._answers.put(answers)


async def _get(keys: Sequence[bytes], server: Connection) -> list[bytes | None]:
    found = list(await server.get(keys))
    if len(found) != len(keys) or not all(blob is None or isinstance(blob, bytes) for blob in found):
        raise OSError("this is the answer to another question")
    return found


async def _put(pairs: Sequence[tuple[bytes, bytes]], server: Connection) -> bool:
    await server.put(pairs, TTL_S)
    return True
