"""One module on one worker or on many: alone, copied to all (DDP), or cut into shares (FSDP2). Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
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


class Named(Alone):
    """One worker that may become several that share the network: its states are by name, as theirs are."""

    def weights(self) -> State:
        return self._states(())[0]

    def states(self, optimizer: torch.optim.Optimizer) -> tuple[State, State]:
        return self._states(optimizer)

    def load(self, optimizer: torch.optim.Optimizer, weights: State, state: State) -> None:
        set_state_dict(
            self.module,
            optimizer,
            model_state_dict=dict(weights),
            optim_state_dict=dict(state),
            options=StateDictOptions(full_state_dict=True),
        )

    def _states(self, optimizers: Any) -> tuple[State, State]:
        """Whole, on the CPU of rank 0; empty elsewhere."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        found: tuple[State, State] = get_state_dict(self.module, optimizers, options=options)
        return found


class Sharded(Named):
    """FSDP2: every layer with weights of its own is gathered when it runs. Each worker holds its share of the weights, the
    gradients and the optimiser's state."""

    def __init__(self, module: nn.Module, device: torch.device, *, half: bool) -> None:
        super().__init__(module, device, half=False)  # its policy casts
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if half else None)
        for layer in _layers(module):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        self._root: FSDPModule = fully_shard(module, mesh=mesh, mp_policy=policy)

    def synchronise(self, wanted: bool) -> None:
        self._root.set_requires_gradient_sync(wanted)


def _layers(module: nn.Module) -> list[nn.Module]:
    """The members of the module's lists and sequences that have weights: what one head of the network is made of."""
    containers = [m for m in module.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    members = [m for container in containers for m in container if not isinstance(m, nn.ModuleList | nn.Sequential)]
    return [m for m in dict.fromkeys(members) if any(True for _ in m.parameters())]
