"""All random states of a worker as bytes of a fixed length: a run that goes on draws what it would have drawn. Imports
torch.

numpy's own generators (`default_rng`) belong to who made them and are not among these.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_PYTHON = struct.Struct("<q625I?d")
_NUMPY = struct.Struct("<624Iqqd")


def seed(number: int) -> None:
    """Torch, numpy and Python."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def capture(device: torch.device) -> torch.Tensor:
    """uint8; its length depends on the kind of device alone."""
    version, words, gauss = random.getstate()
    python = _PYTHON.pack(version, *words, gauss is not None, gauss or 0.0)
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    numpy = _NUMPY.pack(*np.asarray(keys).tolist(), place, has_gauss, cached)
    parts = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return torch.cat([*parts, torch.frombuffer(bytearray(python + numpy), dtype=torch.uint8)])


def restore(state: torch.Tensor, device: torch.device) -> None:
    """What `capture` gave."""
    sizes = [len(torch.get_rng_state())]
    if device.type == "cuda":
        sizes.append(len(torch.cuda.get_rng_state(device)))
    *parts, rest = torch.split(state.cpu(), [*sizes, len(state) - sum(sizes)])
    torch.set_rng_state(parts[0].clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(parts[1].clone(), device)
    raw = rest.numpy().tobytes()
    version, *words, has, gauss = _PYTHON.unpack(raw[: _PYTHON.size])
    random.setstate((version, tuple(words), gauss if has else None))
    *keys, place, has_gauss, cached = _NUMPY.unpack(raw[_PYTHON.size :])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, cached))


@contextmanager
def left_alone(device: torch.device, *, threads: int) -> Iterator[None]:
    """The caller's random numbers and thread count stay the caller's; within there are `threads`."""
    before_threads, before = torch.get_num_threads(), capture(device)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before_threads)
        restore(before, device)
