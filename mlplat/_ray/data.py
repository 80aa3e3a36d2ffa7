"""Numbered pieces of work on a pool of actors, by Ray Data. Its workers import this module, and may not have polars by it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray

NUMBER = "_number"
"""The column with the number of a piece: all that an actor is given, and a part of what it answers."""
POLL_S = 0.5


class Halted(Exception):
    """No error: it unwinds what runs."""


def stream(
    worker: type,
    packed: bytes,
    numbers: Sequence[int],
    *,
    actors: tuple[int, int],
    options: Mapping[str, Any],
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[pa.Table, None, None]:
    """What actors, `worker(packed)` each, from so many to so many, answer to these numbers, in order; `Halted` once `stopped()`.
    However it ends, its actors end. `options` are an actor's. Raises Ray's errors.

    The pipeline is driven from a task: Ray Data talks on the terminal of its driver whatever it is told. And the task can
    be killed whole, with an actor that hangs in the user's code.
    """
    driving = ray.remote(num_cpus=0, max_retries=0)(_pipeline).options(num_returns="streaming")
    answers = driving.remote(worker, packed, list(numbers), actors, dict(options))
    ended = False
    try:
        while True:
            if stopped():
                raise Halted
            ready, _ = ray.wait([answers], timeout=POLL_S)
            if not ready:
                continue
            ref = next(answers, None)
            if ref is None:
                ended = True
                return
            yield ray.get(ref)
    finally:
        if not ended:
            ray.cancel(answers, force=True)


def _pipeline(
    worker: type, packed: bytes, numbers: Sequence[int], actors: tuple[int, int], options: Mapping[str, Any]
) -> Generator[pa.Table, None, None]:
    """No runtime environment for the actors: with one no waiting worker process fits, and new ones take 4 s to start."""
    import ray.data

    blocks = [pa.table({NUMBER: pa.array([number], pa.int32())}) for number in numbers]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    made = ray.data.from_arrow(blocks).map_batches(
        worker,
        fn_constructor_args=(packed,),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=actors[0], max_size=actors[1]),
        max_restarts=-1,
        max_task_retries=1,
        **options,
    )
    for bundle in made.iter_internal_ref_bundles():
        for ref in bundle.block_refs:
            yield pa.table(ray.get(ref))
