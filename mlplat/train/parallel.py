"""One module on one worker, or copied to many (DDP). Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

State = Mapping[str, Any]


class Alone:
    """One worker. All workers call every method, equally often; states are those of the whole network."""

    def __init__(self, module: nn.Module, device: torch.device, *, half: bool) -> None:
        self.module = module
        self._device, self._half = device, half

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The module's answer in float32, with gradients that become the mean over all workers."""
        with self._precision():
            out: torch.Tensor = self._forward(*inputs)
        return out.float()

    def answer(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The module's answer in float32, of this worker alone."""
        with self._precision():
            out: torch.Tensor = self.module(*inputs)
        return out.float()

    def synchronise(self, wanted: bool) -> None:
        """Whether the next backward pass takes the mean over workers, or only adds to this worker's gradients."""

    def weights(self) -> State:
        """By name, for reading only."""
        found: State = self.module.state_dict()
        return found

    def states(self, optimizer: torch.optim.Optimizer) -> tuple[State, State]:
        """Those of the module and of the optimiser, for reading only."""
        return self.module.state_dict(), optimizer.state_dict()

    def load(self, optimizer: torch.optim.Optimizer, weights: State, state: State) -> None:
        """What `states` gave, on any number of workers of the same kind."""
        self.module.load_state_dict(weights)
        optimizer.load_state_dict(dict(state))

    def _forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.module(*inputs)

    def _precision(self) -> AbstractContextManager[Any]:
        half: AbstractContextManager[Any] = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half)
        return half


class Replicated(Alone):
    """DDP. What is not learnt (running means) is rank 0's everywhere."""

    def __init__(self, module: nn.Module, device: torch.device, *, half: bool) -> None:
        super().__init__(module, device, half=half)
        self._ddp = DistributedDataParallel(
            module, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )

    def synchronise(self, wanted: bool) -> None:
        self._ddp.require_backward_grad_sync = wanted  # what `no_sync` sets, which has to stand around the forward too

    def _forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._ddp(*inputs)
