"""The load generator: many connections from a process of its own, closed or open loop, over plain sockets.

`python -m benchmarks._serving.client` takes jobs as lines of JSON and answers each with a line. `Client` is the side that asks.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]
CONNECTIONS = 64
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"connection: *close", re.IGNORECASE)
_VERSION = re.compile(rb'"version":(\d+)')
_STATUS_AT = slice(9, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked. `body` has `%(number)09d`, another one in each request, and may have `%(entity)05d`, one of `entities`;
    with `repeat`, the numbers are so many, again and again."""

    port: int
    path: str
    body: str
    entities: int = 1
    repeat: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came back. Failed is every request without an answer of status 200; `shown` are the first of them. Each array has one
    value for a request: when it was sent and how long it took in seconds (of the clock `perf_counter`, which all processes
    share), its status, the version that answered if it was looked for, and its number."""

    requests: int
    failed: int
    shown: list[str]
    seconds: float
    sent: npt.NDArray[np.float64]
    taken: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]
    version: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]

    @property
    def rps(self) -> float:
        return (self.requests - self.failed) / self.seconds

    def ms(self, percentile: float) -> float:
        return 1e3 * float(np.percentile(self.taken[self.status == 200], percentile))


class Client:
    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    @classmethod
    @contextmanager
    def start(cls, folder: Path) -> Iterator[Client]:
        command = [sys.executable, "-m", "benchmarks._serving.client"]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield cls(process, folder)
            finally:
                process.kill()

    def closed(self, target: Target, *, seconds: float, connections: int = CONNECTIONS) -> Loaded:
        """Each connection asks again as soon as it has its answer."""
        self.begin(target, seconds=seconds, connections=connections)
        return self.end()

    def open(self, target: Target, *, rate: float, requests: int) -> Loaded:
        """So many requests a second, whether the earlier ones are answered or not."""
        self.begin(target, rate=rate, requests=requests)
        return self.end()

    def begin(
        self,
        target: Target,
        *,
        connections: int = CONNECTIONS,
        seconds: float | None = None,
        requests: int | None = None,
        rate: float | None = None,
    ) -> None:
        """Until `seconds` are over, or so many requests are sent, or `stop` is called and then `end`."""
        job = {**asdict(target), "connections": connections, "seconds": seconds, "requests": requests, "rate": rate}
        self._say({**job, "file": str(self._folder / "loaded.npz")})

    def stop(self) -> None:
        self._say({"stop": True})

    def sent(self) -> int:
        """Of the job that runs: how many requests are answered by now."""
        self._say({"sent": True})
        return int(self._heard()["sent"])

    def end(self) -> Loaded:
        """What the job that runs has found, when it is over."""
        found = self._heard()
        with np.load(self._folder / "loaded.npz") as arrays:
            return Loaded(**found, **arrays)

    def _say(self, words: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended")
        found: dict[str, Any] = json.loads(line)
        return found


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: Any = None
        self._buffer = b""
        self._number = -1
        self._sent = 0.0

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, number: int, request: bytes, sent: float) -> None:
        self._number, self._sent = number, sent
        self._transport.write(request)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(buffer, 0, head)
        if length is None:
            self._over(0, b"an answer without its length: " + buffer[:200])
            return
        end = head + 4 + int(length[1])
        if len(buffer) < end:
            return
        self._buffer = b""
        if _CLOSE.search(buffer, 0, head):
            self._transport.close()
        self._over(int(buffer[_STATUS_AT]), buffer[head + 4 : end])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self._buffer = None, b""
        if self._number >= 0:
            self._over(0, f"the connection ended: {exc}".encode())

    def _over(self, status: int, body: bytes) -> None:
        number, self._number = self._number, -1
        self._load.answered(self, number, self._sent, status, body)


class _Load:
    """One job."""

    def __init__(self, job: dict[str, Any], first: int) -> None:
        self._job = job
        self._first = first
        sample = job["body"] % {"number": 0, "entity": 0}
        head = (
            f"POST {job['path']} HTTP/1.1\r\nhost: 127.0.0.1:{job['port']}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(sample)}\r\nx-request-disconnect-disabled: ?1\r\nx-request-id: %(number)09d\r\n\r\n"
        )
        self._template = (head + job["body"]).encode()
        self._stop = False
        self._asked = 0
        self._free: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self._idle = asyncio.Event()
        self._running = 0
        self._lost: set[asyncio.Task[None]] = set()
        self._shown: list[str] = []
        self.rows: list[tuple[float, float, int, int, int]] = []

    async def run(self) -> dict[str, Any]:
        job = self._job
        connections = [_Connection(self) for _ in range(job["connections"])]
        for connection in connections:
            await self._connect(connection)
        began = perf_counter()
        if job["rate"] is None:
            self._free.clear()
            for connection in connections:
                self._next(connection)
            until = None if job["seconds"] is None else began + job["seconds"]
            while not self._enough() and (until is None or perf_counter() < until):
                await asyncio.sleep(0.01 if until is None else min(0.01, max(0.0, until - perf_counter())))
        else:
            await self._steadily(began)
        self._stop = True
        seconds = perf_counter() - began
        while self._running or self._due:
            self._idle.clear()
            await self._idle.wait()
        for connection in connections:
            connection.close()
        columns = list(zip(*self.rows, strict=True)) or [()] * 5
        kinds = {"sent": float, "taken": float, "status": int, "version": int, "number": int}
        arrays = {name: np.array(c, dtype=kind) for (name, kind), c in zip(kinds.items(), columns, strict=True)}
        # What was answered after the end of a closed loop is not counted: it would have been answered at any rate.
        if job["seconds"] is not None:
            kept = arrays["sent"] + arrays["taken"] <= began + seconds
            arrays = {name: values[kept] for name, values in arrays.items()}
        np.savez(job["file"], **arrays)
        failed = int((arrays["status"] != 200).sum())
        return {"requests": len(arrays["sent"]), "failed": failed, "shown": self._shown, "seconds": seconds}

    def stop(self) -> None:
        self._stop = True

    @property
    def asked(self) -> int:
        return self._asked

    def answered(self, connection: _Connection, number: int, sent: float, status: int, body: bytes) -> None:
        found = _VERSION.search(body)
        self.rows.append((sent, perf_counter() - sent, status, int(found[1]) if found else 0, number))
        self._running -= 1
        if status != 200 and len(self._shown) < 5:
            self._shown.append(f"{status} {body[:200]!r}")
        if not connection.open:
            task = asyncio.get_running_loop().create_task(self._again(connection))
            self._lost.add(task)
            task.add_done_callback(self._lost.discard)
        else:
            self._next(connection)
        if not self._running:
            self._idle.set()

    def _next(self, connection: _Connection) -> None:
        if self._job["rate"] is None:
            if not self._enough():
                self._ask(connection, perf_counter())
        elif self._due:
            self._ask(connection, self._due.popleft())
        else:
            self._free.append(connection)

    def _ask(self, connection: _Connection, sent: float) -> None:
        number = self._first + self._asked
        if self._job["repeat"]:
            number %= self._job["repeat"]
        self._asked += 1
        self._running += 1
        connection.ask(number, self._template % {b"number": number, b"entity": number % self._job["entities"]}, sent)

    def _enough(self) -> bool:
        return self._stop or (self._job["requests"] is not None and self._asked >= self._job["requests"])

    async def _steadily(self, began: float) -> None:
        """A request waits for a connection where all have one; that counts for its time."""
        gap, due = 1.0 / self._job["rate"], began
        while not self._enough():
            now = perf_counter()
            while due <= now and not self._enough():
                due += gap
                while self._free and not self._free[0].open:
                    await self._connect(self._free.popleft())
                if self._free:
                    self._ask(self._free.popleft(), perf_counter())
                else:
                    self._due.append(now)
                    if self._job["requests"] is not None and self._asked + len(self._due) >= self._job["requests"]:
                        return
            await asyncio.sleep(max(0.0, due - perf_counter()))

    async def _again(self, connection: _Connection) -> None:
        await self._connect(connection)
        self._free.remove(connection)
        self._next(connection)

    async def _connect(self, connection: _Connection) -> None:
        while True:
            try:
                await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", self._job["port"])
            except OSError:
                await asyncio.sleep(0.05)
            else:
                self._free.append(connection)
                return


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    load: _Load | None = None
    running: asyncio.Task[None] | None = None
    first = 0
    while line := await reader.readline():
        words = json.loads(line)
        if "stop" in words:
            assert load is not None
            load.stop()
        elif "sent" in words:
            _say({"sent": 0 if load is None else len(load.rows)})
        else:
            if running is not None:
                await running
                assert load is not None
                first += load.asked
            gc.collect()
            load = _Load(words, first)
            running = loop.create_task(_told(load))


async def _told(load: _Load) -> None:
    _say(await load.run())


def _say(words: dict[str, Any]) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    import uvloop

    gc.disable()  # its pauses would be taken for the server's
    uvloop.run(main())
