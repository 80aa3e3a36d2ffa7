"""A Ray Train worker: the gang over torch.distributed, and the work itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import OutOfMemoryError
from ray.train import get_context
from ray.train.torch import TorchConfig, get_device
from ray.train.torch.config import _TorchBackend
from torch import nn

from mlplat._ray.niceness import in_background
from mlplat.clock import SystemClock
from mlplat.train import parallel
from mlplat.train._ray.failures import ToldError, description
from mlplat.train.fit import fit
from mlplat.train.progress import Progress, Silent
from mlplat.train.relay import ToFile
from mlplat.train.session import learn
from mlplat.train.settings import Parallel
from mlplat.train.work import Learned, Yielded

STOP_FILE = "stop"


class Workers:
    """The gang of a Ray Train worker."""

    def __init__(self) -> None:
        context = get_context()
        self.rank: int = context.get_world_rank()
        self.size: int = context.get_world_size()
        self.local_rank: int = context.get_local_rank()
        self.local_size: int = context.get_local_world_size()
        self.device: torch.device = get_device()

    def wrap(self, module: nn.Module, *, how: Parallel, half: bool) -> parallel.Alone:
        kind: type[parallel.Alone]
        if how == "fsdp":
            from mlplat.train import sharded

            kind = sharded.Named if self.size == 1 else sharded.Sharded
        else:
            kind = parallel.Alone if self.size == 1 else parallel.Replicated
        return kind(module, self.device, half=half)

    def share(self, numbers: Sequence[float]) -> list[float]:
        if self.size == 1:
            return list(numbers)
        shared = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        found: list[float] = shared.tolist()
        return found

    def gather(self, rows: torch.Tensor) -> list[torch.Tensor]:
        if self.size == 1:
            return [rows.cpu()]
        mine = rows.to(self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return [one.cpu() for one in found]


class Backend(_TorchBackend):  # type: ignore[misc]
    """Ray Train's. Of the workers that it says goodbye to some may be dead, and it knows that; but where Ray killed one for its
    memory the error is of another class, which would end the run."""

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        with contextlib.suppress(OutOfMemoryError):
            super().on_shutdown(worker_group, backend_config)


@dataclass
class Torch(TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[Backend]:
        return Backend


def work_on(config: dict[str, Any]) -> Learned | Yielded | None:
    """What runs on every worker."""
    in_background()
    gang, asked = Workers(), config["folder"] / STOP_FILE
    clock = SystemClock()
    progress: Progress = ToFile(config["told"], clock) if gang.rank == 0 else Silent()
    try:
        work, stop = ray.get(config["work"]), asked.exists
        estimates = work.science.estimator is not None
        learned = fit(work, progress, clock, stop) if estimates else learn(work, gang, progress, clock, stop)
    except Exception as error:
        raise ToldError(json.dumps(description(error))) from error
    finally:
        progress.end()
    return learned if gang.rank == 0 else None
