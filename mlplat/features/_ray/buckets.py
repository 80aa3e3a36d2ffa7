"""The tasks of a join in buckets on Ray: a few processes, each with one core and one task at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mlplat._ray.niceness import in_background
from mlplat.errors import MlplatError, Unavailable
from mlplat.features.bucket_tasks import Task

RETRIES = 2
"""How often a task is run again whose process died."""
# What a process frees goes back to the system, and a core has one thread: memory is what was planned for.
_FRUGAL = {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
}


class _Worker:
    def __init__(self) -> None:
        in_background()

    def up(self) -> None:
        """Answers when the process is there."""

    def run(self, task: Task) -> MlplatError | None:
        """An error of ours is an answer: raised here it would come out wrapped in Ray's."""
        try:
            task()
        except MlplatError as error:
            return error
        return None


def run_on_ray(tasks: Sequence[Task], workers: int) -> None:
    """All tasks, on at most `workers` processes of this machine, whose disk they share.

    Raises what of ours a task raised, or `Unavailable` if it fails otherwise, or its process dies again and again.
    """
    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    made = ray.remote(_Worker).options(
        num_cpus=1,
        max_restarts=RETRIES,
        max_task_retries=RETRIES,
        scheduling_strategy=here,
        runtime_env={"env_vars": _FRUGAL},
    )
    actors = [made.remote() for _ in range(min(workers, len(tasks)))]
    try:
        _drive(actors, deque(tasks))
    except ray.exceptions.RayError as error:
        raise Unavailable(f"a task of the join failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        for actor in actors:
            ray.kill(actor)


def _drive(actors: list[Any], waiting: deque[Task]) -> None:
    """An actor gets a task when it is up: for one that finds no free core, nothing waits."""
    busy = {actor.up.remote(): actor for actor in actors}
    running: set[Any] = set()
    while waiting or running:
        done, _ = ray.wait(list(busy), num_returns=1)
        for ref in done:
            actor = busy.pop(ref)
            running.discard(ref)
            if (wrong := ray.get(ref)) is not None:
                raise wrong
            if waiting:
                started = actor.run.remote(waiting.popleft())
                busy[started] = actor
                running.add(started)
