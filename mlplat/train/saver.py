"""Checkpoints beside the training: the copy is made at once, the writing is another thread's. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from mlplat.clock import Clock
from mlplat.errors import UserCodeError
from mlplat.train.checkpoints import Checkpoints, Tensors, parted


class Saver:
    """One writer of one folder. `committed` is the newest step that is durable; `cost_s` what the last checkpoint took in
    all, None before the first. A checkpoint that cannot be written costs no more than itself: `failed` says why."""

    def __init__(self, checkpoints: Checkpoints, clock: Clock, *, committed: int) -> None:
        self.committed = committed
        self.begun = committed
        self.cost_s: float | None = None
        self.stall_s = 0.0
        self._checkpoints, self._clock = checkpoints, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlplat-checkpoint")
        self._pending: Future[None] | None = None
        self._failed: list[str] = []
        self._best: Tensors | None = None
        self._buffers: dict[str, torch.Tensor] = {}

    @property
    def idle(self) -> bool:
        return self._pending is None or self._pending.done()

    def save(self, step: int, state: Mapping[str, Any], best: Tensors) -> None:
        """Returns when everything is copied, so that training may change it. `best` is not copied: it never changes, and is
        written once."""
        began_s = self._clock.elapsed_s()
        self.wait()
        tensors: dict[str, torch.Tensor] = {}
        plain = parted(state, tensors)
        try:
            json.dumps(plain)
        except TypeError as error:
            raise UserCodeError(
                f"a checkpoint cannot hold the state of the optimizer: {error}. It may hold tensors, numbers, texts, lists and "
                "mappings"
            ) from error
        copies = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        self.begun = step
        self.stall_s = self._clock.elapsed_s() - began_s
        self._pending = self._thread.submit(self._write, step, plain, copies, best, began_s)

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._pending is not None:
            self._pending.result()

    def failures(self) -> list[str]:
        """What could not be written since the last call."""
        found, self._failed = self._failed, []
        return found

    def close(self) -> None:
        self._thread.shutdown()

    def _write(self, step: int, state: Any, tensors: Tensors, best: Tensors, began_s: float) -> None:
        try:
            self._checkpoints.write(step, state, tensors, None if best is self._best else best)
        except OSError as error:
            self._failed.append(f"the checkpoint of step {step} could not be written ({error}); training goes on")
        else:
            self.committed, self._best = step, best
        self.cost_s = self._clock.elapsed_s() - began_s

    def _copy(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Into the buffer of the last time: new memory of this size would take longer than the copy."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return buffer.copy_(tensor)
