"""What computes answers for the dispatcher: a model in this process, or calls to one in another, many rows in each."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlplat.clock import Clock
from mlplat.errors import Unavailable
from mlplat.model.signature import Signature
from mlplat.serve.pace import Pace

Columns = Mapping[str, Sequence[Any]]
Outputs = Mapping[str, list[Any]]

MAX_BATCH_ROWS = 256
MAX_WAITING_ROWS = 4_096


class Predictor(Protocol):
    """What serving needs of a model."""

    @property
    def signature(self) -> Signature: ...

    @property
    def digest(self) -> str: ...

    def predict(self, columns: Columns) -> Mapping[str, Any]:
        """Arrays by output name, one value per row of the input columns."""


class Backbone(Protocol):
    """Answers rows with one version of a model. A row's answer depends on no other row."""

    async def predict(self, columns: Columns, rows: int) -> Outputs:
        """Of at least one row. Raises what the model raises, `Unavailable` if it cannot be reached or has too much to do."""

    async def close(self) -> None:
        """No more calls come."""


@dataclass(frozen=True, slots=True)
class Fused:
    """In this process, on the loop's own thread: for models that answer faster than a message travels."""

    model: Predictor

    async def predict(self, columns: Columns, rows: int) -> Outputs:
        return {name: values.tolist() for name, values in self.model.predict(columns).items()}

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    columns: Columns
    rows: int
    answer: asyncio.Future[Outputs]


class Coalesced:
    """Gathers what comes while a call is under way, and sends it as the next one: there is no timer, and a lone row waits for
    nobody. `calls` go on at once, such as one for each replica; they may be changed.

    A caller that leaves takes its rows with it only if they have not been sent, and no other's. A call of several that fails
    is made again for each alone, so that one row that cannot be answered fails only those beside it in its request.
    """

    def __init__(
        self,
        call: Callable[[Columns, int], Awaitable[Outputs]],
        *,
        calls: int = 1,
        max_rows: int = MAX_BATCH_ROWS,
        max_waiting: int = MAX_WAITING_ROWS,
    ) -> None:
        self._call, self.calls, self._max_rows, self._max_waiting = call, calls, max_rows, max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._rows = self._working = 0
        self._pace: tuple[Pace, Clock] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def aim(self, limit_s: float | None, clock: Clock) -> None:
        """Keep calls, and what waits for them, so small that rows are answered within `limit_s`; None: as large as may be."""
        if limit_s is None:
            self._pace = None
        elif self._pace is None or self._pace[0].limit_s != limit_s:
            self._pace = (Pace(limit_s, most_rows=self._max_rows, most_waiting=self._max_waiting), clock)

    async def predict(self, columns: Columns, rows: int) -> Outputs:
        if self._closed or self._rows + rows > self._max_waiting:
            raise Unavailable("the model has more to answer than it can: try again")
        if self._pace is not None and self._rows and self._rows + rows > self._pace[0].waiting:
            raise Unavailable("the model has more to answer than it can within its latency objective: try again")
        one = _Waiting(columns, rows, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._rows += rows
        if self._working < self.calls:
            self._working += 1
            # In an empty context: Ray Serve cancels what a request began when its caller leaves.
            task = asyncio.get_running_loop().create_task(self._work(), context=contextvars.Context())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await one.answer

    async def close(self) -> None:
        """What waits is answered."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)

    async def _work(self) -> None:
        try:
            while self._working <= self.calls and (batch := self._next()):
                await self._settle(batch)
        finally:
            self._working -= 1

    async def _settle(self, batch: Sequence[_Waiting]) -> None:
        """Everybody in it gets an answer or an error."""
        try:
            await self._answer(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers'
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for one in batch:
                await self._settle([one])

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        rows = sum(one.rows for one in batch)
        columns = batch[0].columns if len(batch) == 1 else _joined([one.columns for one in batch])
        outputs = await self._timed(columns, rows)
        if any(len(values) != rows for values in outputs.values()):
            raise Unavailable(f"the model was asked for {rows} rows and answered another number")
        begin = 0
        for one in batch:
            end = begin + one.rows
            if not one.answer.done():
                one.answer.set_result({name: values[begin:end] for name, values in outputs.items()})
            begin = end

    async def _timed(self, columns: Columns, rows: int) -> Outputs:
        if self._pace is None:
            return await self._call(columns, rows)
        pace, clock = self._pace
        began_s = clock.elapsed_s()
        outputs = await self._call(columns, rows)
        pace.ended(rows, clock.elapsed_s() - began_s, self._working)
        return outputs

    def _next(self) -> list[_Waiting]:
        """Whole requests of one shape, as many as fit; a larger one goes alone."""
        batch: list[_Waiting] = []
        rows, most = 0, self._max_rows if self._pace is None else self._pace[0].rows
        while self._waiting:
            one = self._waiting[0]
            if one.answer.cancelled():
                self._waiting.popleft()
                self._rows -= one.rows
                continue
            if batch and rows + one.rows > most:
                break
            self._waiting.popleft()
            self._rows -= one.rows
            batch.append(one)
            rows += one.rows
        return batch


def _fail(one: _Waiting, error: Exception) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}
