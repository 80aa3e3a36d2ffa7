"""The workers of a run, as one of them sees them: a port, and the gang of one, so that one process is no special
case."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class Gang(Protocol):
    """Rank 0 evaluates, decides and reports."""

    rank: int
    size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are the mean over all workers."""

    def agree(self, value: bool) -> bool:
        """The value of rank 0, on every rank. All call it, equally often."""


class Alone:
    """This process."""

    rank = 0
    size = 1
    device = torch.device("cpu")

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def agree(self, value: bool) -> bool:
        return value
