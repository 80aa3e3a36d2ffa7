"""The pools of actors: many rows on Ray Data, a few on actors that stay. One object of the user per actor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

import polars as pl
import pyarrow as pa
import ray
import ray.cloudpickle as cloudpickle
import ray.exceptions

from mlplat.errors import Unavailable
from mlplat.features._ray.buckets import run_on_ray
from mlplat.features._ray.online_actors import OnlineActors, frame_of, refuse_error
from mlplat.features._ray.worker import CHUNK, ChunkWorker
from mlplat.features.bucket_tasks import Task
from mlplat.features.chunks import ChunkReader
from mlplat.features.definitions import View
from mlplat.features.pool import BATCH_TIMEOUT_S, Stopped
from mlplat.features.tables import BATCH, ID

POLL_S = 0.5
DEATHS = 2
"""So many runs in a row that end with a dead worker before they made anything are no accident."""


class RayPool:
    """`Pool` on Ray. `connect` brings a session up if there is none; `scope` tells homes apart that share a cluster."""

    def __init__(self, connect: Callable[[], object], *, scope: str) -> None:
        self._connect = connect
        self._online = OnlineActors(scope)

    def batch(self, view: View, reader: ChunkReader, *, stopped: Stopped) -> Generator[pl.DataFrame, None, None]:
        self._connect()
        packed = _packed(view, reader)
        at = deaths = 0
        end = len(reader.chunks)
        while at < end:
            tables = _stream(packed, view.actors, range(at, end), stopped)
            try:
                for rows in _whole_chunks(tables, at, end):
                    deaths, at = 0, at + 1
                    yield rows
            except _Halted:
                return
            except ray.exceptions.RayError as error:
                deaths += 1
                if deaths == DEATHS:
                    raise _died(view, reader.read(at), error) from error
            finally:
                tables.close()

    def online(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        self._connect()
        return self._online.make(view, rows)

    def run(self, tasks: Sequence[Task], workers: int) -> None:
        self._connect()
        run_on_ray(tasks, workers)

    def close(self) -> None:
        self._online.close()


class _Halted(Exception):  # no error: it unwinds what runs
    pass


def _packed(view: View, reader: ChunkReader) -> bytes:
    packed: bytes = cloudpickle.dumps((view, view.timeout_s or BATCH_TIMEOUT_S, reader))
    return packed


def _stream(packed: bytes, actors: tuple[int, int], chunks: range, stopped: Stopped) -> Generator[pa.Table, None, None]:
    """The actors' answers of these chunks, in order; `_Halted` once `stopped()`. However it ends, its actors end.

    The pipeline is driven from a task: Ray Data talks on the terminal of its driver whatever it is told. And the task can
    be killed whole, with an actor that hangs in the user's code.
    """
    answers = (
        ray.remote(num_cpus=0, max_retries=0)(_pipeline).options(num_returns="streaming").remote(packed, actors, chunks)
    )
    ended = False
    try:
        while True:
            if stopped():
                raise _Halted
            ready, _ = ray.wait([answers], timeout=POLL_S)
            if not ready:
                continue
            ref = next(answers, None)
            if ref is None:
                ended = True
                return
            table = ray.get(ref)
            refuse_error(table)
            yield table
    finally:
        if not ended:
            ray.cancel(answers, force=True)


def _pipeline(packed: bytes, actors: tuple[int, int], chunks: range) -> Generator[pa.Table, None, None]:
    """No runtime environment for the actors: with one no waiting worker process fits, and new ones take 4 s to start."""
    import ray.data

    blocks = [pa.table({CHUNK: pa.array([number], pa.int32())}) for number in chunks]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    made = ray.data.from_arrow(blocks).map_batches(
        ChunkWorker,
        fn_constructor_args=(packed,),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=actors[0], max_size=actors[1]),
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=1,
    )
    for bundle in made.iter_internal_ref_bundles():
        for ref in bundle.block_refs:
            yield pa.table(ray.get(ref))


def _whole_chunks(tables: Iterable[pa.Table], first: int, end: int) -> Generator[pl.DataFrame, None, None]:
    """The rows of the chunks from `first` to before `end`. Ray Data may cut a chunk into several tables, and drops empty
    ones."""
    at, parts = first, list[pl.DataFrame]()
    for table in tables:
        part = frame_of(table)
        while at < part[CHUNK][0]:
            yield pl.concat(parts) if parts else pl.DataFrame()
            at, parts = at + 1, []
        parts.append(part.drop(CHUNK))
    for _ in range(at, end):
        yield pl.concat(parts) if parts else pl.DataFrame()
        parts = []


def _died(view: View, rows: pl.DataFrame, error: Exception) -> Unavailable:
    first = rows.drop(ID, BATCH, strict=False).head(1).to_dicts()
    return Unavailable(
        f"view {view.name!r}: an actor of its pool died, and died again, on {rows.height} rows of which the first is "
        f"{first}: {str(error).splitlines()[-1]} Look for a lack of memory, or a crash in what its code calls."
    )
