"""The network of a model, whichever way it is kept, with its weights and ready to answer. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlplat.errors import InvalidInput
from mlplat.model.architecture import Architecture
from mlplat.model.build import build, load_weights
from mlplat.model.exported import Exported
from mlplat.model.inputs import InputEncoding
from mlplat.model.program import Program
from mlplat.model.recorded import Recorded
from mlplat.model.shape import Shape


def running(
    network: Architecture | Exported | Recorded,
    weights: Mapping[str, np.ndarray[Any, Any]],
    encoding: InputEncoding,
    *,
    outputs: int,
) -> Callable[..., Any]:
    """Takes what `encoding` gives, as tensors, and gives [n, outputs]. `InvalidInput` if the weights are of another network."""
    if isinstance(network, Exported):
        return Program(network.program, weights)
    if isinstance(network, Recorded):
        module = network.make(Shape.of(encoding, outputs))
    else:
        module = build(network, encoding, outputs=outputs)
    try:
        ready: Callable[..., Any] = load_weights(module, weights)
    except RuntimeError as error:
        raise InvalidInput(f"the weights do not fit the network: {error}") from None
    return ready
