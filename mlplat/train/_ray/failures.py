"""What went wrong on workers, as the driver tells it."""

from __future__ import annotations

import json
import re

from ray.exceptions import OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from mlplat import errors
from mlplat.errors import MlplatError, Unavailable, UserCodeError
from mlplat.train.faults import less_memory, line_of
from mlplat.train.settings import TrainSettings

_NODE = re.compile(r"Memory on the node \(IP: ([^,]+), [^)]*\) was ([\d.]+ ?GB used / [\d.]+ ?GB limit)")
_PARTNER_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")


class ToldError(Exception):
    """An error as JSON text, because a worker's exception reaches the driver as text."""


def description(error: Exception) -> dict[str, str]:
    where, line = line_of(error)
    return {"kind": type(error).__name__, "message": str(error), "where": where, "line": line}


def told(error: WorkerGroupError) -> tuple[int, dict[str, str]] | None:
    """The first worker with an error of its own, and that. The error of one which only lost its partner tells nothing."""
    for rank, failure in sorted(error.worker_failures.items()):
        text = str(failure)
        start = text.rfind('{"kind"')
        if start >= 0:
            description = json.JSONDecoder().raw_decode(text[start:])[0]
            ours = _kind(description) is not None
            if ours or not any(name in description["message"].lower() for name in _PARTNER_LOST):
                return rank, description
    return None


def _kind(description: dict[str, str]) -> type[MlplatError] | None:
    kind = getattr(errors, description["kind"], None)
    return kind if isinstance(kind, type) and issubclass(kind, MlplatError) else None


def of_user(error: WorkerGroupError, settings: TrainSettings) -> MlplatError:
    own = told(error)
    if own is None:
        for failure in error.worker_failures.values():
            if isinstance(failure, WorkerHealthCheckFailedError):
                failure = failure.health_check_failure
            if isinstance(failure, OutOfMemoryError):
                return killed_for_memory(failure, settings)
        lost = ", ".join(str(rank) for rank in sorted(error.worker_failures))
        why = next((first_line(failure) for failure in error.worker_failures.values()), first_line(error))
        return Unavailable(
            f"workers were lost (rank {lost}): {why}. The same call goes on from the run's newest checkpoint."
        )
    rank, first = own
    if (kind := _kind(first)) is not None:
        return kind(first["message"])
    return UserCodeError(
        f"worker {rank} raised {first['kind']}: {first['message']}\n  at {first['where']}: {first['line']}"
    )


def killed_for_memory(error: OutOfMemoryError, settings: TrainSettings) -> Unavailable:
    """Ray's text is a page, with all processes of the node; its first line says what there was."""
    found = _NODE.search(str(error))
    node = f"the node {found[1]} ran low on memory ({found[2]})" if found else "their node ran low on memory"
    return Unavailable(
        f"workers were lost: Ray killed them because {node}. What takes less: {less_memory(settings)}. Other work on that node "
        "counts too. Such a change begins a new run; the same call goes on from the run's newest checkpoint."
    )


def first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
