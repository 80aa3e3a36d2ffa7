"""One module cut into shares, of which each worker has one (FSDP2). Imports what takes torch a second to load, so that only who
wants it does."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from mlplat.train.parallel import Alone, State


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
