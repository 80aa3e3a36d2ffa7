"""How the network of a run is kept in the model. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mlplat.errors import InvalidInput
from mlplat.model.architecture import Architecture
from mlplat.model.build import load_weights, logits, made
from mlplat.model.check import sample
from mlplat.model.export import export, record
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Network
from mlplat.model.shape import Shape
from mlplat.train import rng
from mlplat.train.science import Science


def kept(
    science: Science,
    encoding: InputEncoding,
    *,
    outputs: int,
    weights: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Network:
    """The network as it is kept: an architecture as it is, another one as a program or as its code. Without weights its first
    ones stand for them: so it is found out before a run whether it can be kept."""
    make: Any = science.network
    if isinstance(make, Architecture):
        return make
    with rng.left_alone(torch.device("cpu"), threads=torch.get_num_threads()):
        module = made(make, Shape.of(encoding, outputs))
    if weights is not None:
        load_weights(module, weights)
    found = record(make, module, encoding) if science.keep == "code" else export(module, encoding)
    given = logits(module.cpu().eval(), *sample(encoding, 2)).shape[1]
    if given != outputs:
        raise InvalidInput(f"the network gives {given} numbers per row, and the task needs {outputs}")
    return found
