"""Training on several workers with Ray Train: the gang over torch.distributed, and the run itself."""

from __future__ import annotations

import contextlib
import json
import shutil
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlplat import errors
from mlplat.clock import SystemClock
from mlplat.config import set_environment
from mlplat.errors import MlplatError, Unavailable, UserCodeError
from mlplat.jobs.demand import Demand
from mlplat.train.loop import Learned, learn
from mlplat.train.progress import Progress, Silent
from mlplat.train.relay import Follower, ToFile
from mlplat.train.shards import Work

ABORT_S = 30.0
_PARTNER_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")

# Ray Train's own: a shorter poll ends a run sooner; the others start actors and reporters that one machine does not
# need.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class Workers:
    """The gang of a Ray Train worker."""

    def __init__(self) -> None:
        context = get_context()
        self.rank: int = context.get_world_rank()
        self.size: int = context.get_world_size()
        self.device: torch.device = get_device()

    def wrap(self, module: nn.Module) -> nn.Module:
        if self.size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def agree(self, value: bool) -> bool:
        if self.size == 1:
            return value
        shared = torch.tensor([float(value)], device=self.device)
        dist.broadcast(shared, src=0)
        return bool(shared.item())


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train's, which takes over Ctrl-C for good and then ends the process; here it stays Python's, and frees the
    workers."""

    _controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def _create_default_callbacks(self) -> list[Any]:
        # The cleaner costs a process with torch in it at every start, and works only where a dashboard answers. What it
        # guards against, a controller that dies alone, ends with this driver at the latest.
        callbacks: list[Any] = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback)]

    def abort(self) -> None:
        if self._controller is not None:
            with contextlib.suppress(RayActorError):  # how it answers: by ending
                ray.get(self._controller.abort.remote(), timeout=ABORT_S)


def learn_on_workers(work: Work, demand: Demand, folder: Path, progress: Progress) -> Learned:
    """Run `learn` on `demand.count` workers. `folder` is this run's own; its last part is the run's unique name.

    Raises what `learn` raises, `UserCodeError` for anything else that a worker raised, `Unavailable` if workers were
    lost.
    """
    set_environment(_ENVIRONMENT)
    folder.mkdir(parents=True)
    told = folder / "progress.jsonl"
    told.touch()
    progress.note(f"starting {demand.count} {demand.device.upper()} worker{'s' if demand.count > 1 else ''}")
    trainer = Trainer(
        _worker,
        train_loop_config={"work": work, "told": told},
        scaling_config=ScalingConfig(num_workers=demand.count, use_gpu=demand.device == "gpu"),
        run_config=RunConfig(name=folder.name, storage_path=str(folder.parent)),
    )
    follower = Follower(told, progress)
    try:
        learned: Learned = _fit(trainer)
    finally:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            follower.stop()
    return learned


def _fit(trainer: Trainer) -> Learned:
    try:
        result = trainer.fit()
    except KeyboardInterrupt:
        trainer.abort()
        raise
    except WorkerGroupError as error:
        raise _of_user(error) from None
    except (TrainingFailedError, RayError) as error:
        raise Unavailable(f"Ray Train could not run the workers: {_first_line(error)}") from error
    learned: Learned = result.return_value
    return learned


def _worker(config: dict[str, Any]) -> Learned | None:
    gang = Workers()
    clock = SystemClock()
    progress: Progress = ToFile(config["told"], clock) if gang.rank == 0 else Silent()
    try:
        learned = learn(config["work"], gang, progress, clock)
    except Exception as error:
        raise ToldError(json.dumps(_description(error))) from error
    finally:
        progress.end()
    return learned if gang.rank == 0 else None


class ToldError(Exception):
    """An error as JSON text, because a worker's exception reaches the driver as text."""


def _description(error: Exception) -> dict[str, str]:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename}:{frame.lineno}"
    return {"kind": type(error).__name__, "message": str(error), "where": where, "line": frame.line or ""}


def _of_user(error: WorkerGroupError) -> MlplatError:
    """The first worker's own error. That of a worker which only lost its partner tells nothing."""
    told: list[tuple[int, dict[str, str]]] = []
    for rank, failure in sorted(error.worker_failures.items()):
        text = str(failure)
        start = text.rfind('{"kind"')
        if start >= 0:
            description = json.JSONDecoder().raw_decode(text[start:])[0]
            if not any(name in description["message"].lower() for name in _PARTNER_LOST):
                told.append((rank, description))
    if not told:
        lost = ", ".join(str(rank) for rank in sorted(error.worker_failures))
        why = next((_first_line(failure) for failure in error.worker_failures.values()), _first_line(error))
        return Unavailable(
            f"workers were lost (rank {lost}): {why}. Train again; the home is as it was before the run."
        )
    rank, first = told[0]
    kind = getattr(errors, first["kind"], None)
    if isinstance(kind, type) and issubclass(kind, MlplatError):
        return kind(first["message"])
    return UserCodeError(
        f"worker {rank} raised {first['kind']}: {first['message']}\n  at {first['where']}: {first['line']}"
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
