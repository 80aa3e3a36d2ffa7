"""The pools of actors: many rows on Ray Data, a few on actors that stay. One object of the user per actor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
import pyarrow as pa
import ray.cloudpickle as cloudpickle
import ray.exceptions
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mlplat._ray.data import NUMBER, Halted, stream
from mlplat.errors import Unavailable
from mlplat.features._ray.buckets import run_on_ray
from mlplat.features._ray.online_actors import OnlineActors, frame_of, refuse_error
from mlplat.features._ray.worker import ChunkWorker
from mlplat.features.bucket_tasks import Task
from mlplat.features.chunks import ChunkReader
from mlplat.features.definitions import View
from mlplat.features.pool import BATCH_TIMEOUT_S, Stopped
from mlplat.features.tables import BATCH, ID
from mlplat.jobs._ray.world import group_of
from mlplat.jobs.demand import Demand
from mlplat.jobs.queue import Jobs

DEATHS = 2
"""So many runs in a row that end with a dead worker before they made anything are no accident."""


class RayPool:
    """`Pool` on Ray. `connect` brings a session up if there is none; `scope` tells homes apart that share a cluster."""

    def __init__(
        self,
        connect: Callable[[], object],
        *,
        scope: str,
        queue: Callable[[], Jobs | None] = lambda: None,
    ) -> None:
        self._connect, self._queue = connect, queue
        self._online = OnlineActors(scope)

    def batch(self, view: View, reader: ChunkReader, *, stopped: Stopped) -> Generator[pl.DataFrame, None, None]:
        self._connect()
        packed = _packed(view, reader)
        at = deaths = 0
        end = len(reader.chunks)
        while at < end:
            with self._actors(view) as (actors, options, given_up):
                tables = stream(
                    ChunkWorker,
                    packed,
                    range(at, end),
                    actors=actors,
                    stopped=_either(stopped, given_up),
                    options=options,
                )
                try:
                    for rows in _whole_chunks(map(_good, tables), at, end):
                        deaths, at = 0, at + 1
                        yield rows
                except Halted:
                    if stopped():
                        return
                except ray.exceptions.RayError as error:
                    deaths += not given_up()
                    if deaths == DEATHS:
                        raise _died(view, reader.read(at), error) from error
                finally:
                    tables.close()

    @contextmanager
    def _actors(self, view: View) -> Iterator[tuple[tuple[int, int], dict[str, Any], Stopped]]:
        """How many there may be, their options, and whether others are to have their cores: on a cluster that is shared they come
        from its queue."""
        jobs = self._queue()
        if jobs is None:
            yield view.actors, {"num_cpus": 1}, lambda: False
            return
        demand = Demand.parse({"workers": view.actors, "CPU": 1})
        with jobs.lease(demand, name=f"view {view.name}", priority="explore") as lease:
            strategy = PlacementGroupSchedulingStrategy(group_of(lease.group_id))
            yield (lease.size, lease.size), {"num_cpus": 1, "scheduling_strategy": strategy}, lease.stop

    def online(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        self._connect()
        return self._online.make(view, rows)

    def run(self, tasks: Sequence[Task], workers: int) -> None:
        self._connect()
        run_on_ray(tasks, workers)

    def close(self) -> None:
        self._online.close()


def _either(one: Stopped, other: Stopped) -> Stopped:
    return lambda: one() or other()


def _packed(view: View, reader: ChunkReader) -> bytes:
    packed: bytes = cloudpickle.dumps((view, view.timeout_s or BATCH_TIMEOUT_S, reader))
    return packed


def _good(table: pa.Table) -> pa.Table:
    refuse_error(table)
    return table


def _whole_chunks(tables: Iterable[pa.Table], first: int, end: int) -> Generator[pl.DataFrame, None, None]:
    """The rows of the chunks from `first` to before `end`. Ray Data may cut a chunk into several tables, and drops empty
    ones."""
    at, parts = first, list[pl.DataFrame]()
    for table in tables:
        part = frame_of(table)
        while at < part[NUMBER][0]:
            yield pl.concat(parts) if parts else pl.DataFrame()
            at, parts = at + 1, []
        parts.append(part.drop(NUMBER))
    for _ in range(at, end):
        yield pl.concat(parts) if parts else pl.DataFrame()
        parts = []


def _died(view: View, rows: pl.DataFrame, error: Exception) -> Unavailable:
    first = rows.drop(ID, BATCH, strict=False).head(1).to_dicts()
    return Unavailable(
        f"view {view.name!r}: an actor of its pool died, and died again, on {rows.height} rows of which the first is "
        f"{first}: {str(error).splitlines()[-1]} Look for a lack of memory, or a crash in what its code calls."
    )
