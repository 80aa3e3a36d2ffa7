"""The workers of a run, as one of them sees them: a port, and the gang of one, so that one process is no special
case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from mlplat.train import parallel
from mlplat.train.settings import Parallel


class Gang(Protocol):
    """Rank 0 judges, decides and reports. `local_rank` counts the workers of one node. All workers call `share` and
    `gather` equally often."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    def wrap(self, module: nn.Module, *, how: Parallel, half: bool) -> parallel.Alone:
        """A module whose gradients are the mean over all workers."""

    def share(self, numbers: Sequence[float]) -> list[float]:
        """The numbers of rank 0, on every rank. Nobody goes on before rank 0 has come here."""

    def gather(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, in their order, which have one shape, on the CPU of every rank. Nobody goes on before
        all have come here."""


class Alone:
    """This process."""

    rank = local_rank = 0
    size = local_size = 1
    device = torch.device("cpu")

    def __init__(self, device: torch.device | None = None) -> None:
        if device is not None:
            self.device = device

    def wrap(self, module: nn.Module, *, how: Parallel, half: bool) -> parallel.Alone:
        return parallel.Alone(module, self.device, half=half)

    def share(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def gather(self, rows: torch.Tensor) -> list[torch.Tensor]:
        return [rows.cpu()]
