"""The network of a model, whichever way it is kept, with its weights and ready to answer. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlplat.errors import InvalidInput
from mlplat.model.architecture import Architecture
from mlplat.model.build import build, load_weights, logits, made
from mlplat.model.columns import Columns
from mlplat.model.exported import Exported
from mlplat.model.few import few
from mlplat.model.inputs import FEW_ROWS, InputEncoding
from mlplat.model.program import Program
from mlplat.model.recorded import Recorded
from mlplat.model.shape import Shape
from mlplat.model.task import Task

Array = np.ndarray[Any, Any]


def predictor(
    network: Architecture | Exported | Recorded, weights: Mapping[str, Array], encoding: InputEncoding, task: Task
) -> Callable[[Columns], Array]:
    """From input columns to the task's predictions. `InvalidInput` if the weights are of another network."""
    module = running(network, weights, encoding, outputs=task.outputs)
    quick = few(network, weights) if isinstance(network, Architecture) else None

    def predictions(columns: Columns) -> Array:
        numeric, codes = encoding.encode(columns)
        if quick is not None and len(numeric) <= FEW_ROWS:
            return task.predictions(quick(numeric, codes))
        return task.predictions(logits(module, numeric, codes))

    return predictions


def running(
    network: Architecture | Exported | Recorded,
    weights: Mapping[str, Array],
    encoding: InputEncoding,
    *,
    outputs: int,
) -> Callable[..., Any]:
    """Takes what `encoding` gives, as tensors, and gives [n, outputs]. `InvalidInput` if the weights are of another network."""
    if isinstance(network, Exported):
        return Program(network.program, weights)
    if isinstance(network, Recorded):
        module = made(network.make, Shape.of(encoding, outputs))
    else:
        module = build(network, encoding, outputs=outputs)
    try:
        ready: Callable[..., Any] = load_weights(module, weights)
    except RuntimeError as error:
        raise InvalidInput(f"the weights do not fit the network: {error}") from None
    return ready
