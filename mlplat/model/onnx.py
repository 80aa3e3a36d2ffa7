"""A model as an ONNX file, for those who answer without mlplat. Imports torch; needs the extra `mlplat[onnx]`.

The graph takes what the model's encoding gives: `numeric` float32 [rows, columns] and `codes` int64 [rows, columns]. It gives
the task's predictions in float32: `probability` [rows], `probabilities` [rows, classes], or `value` [rows]. The file's
metadata say how to encode.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlplat.disk import write_atomically
from mlplat.errors import InvalidInput
from mlplat.model.canonical import canonical
from mlplat.model.estimator import Estimator
from mlplat.model.export import traced
from mlplat.model.model import Model
from mlplat.model.running import running
from mlplat.model.task import Kind

OUTPUTS = {"binary": "probability", "multiclass": "probabilities", "regression": "value"}
LARGEST = 2**31 - 2**20
"""Bytes of weights: one file of protobuf holds less than 2 GiB."""
_OPERATOR = re.compile(r"OpOverload\(op='([^']+)'")
_REMEDY = "export another network: one of the vocabulary always can be"


def export_onnx(model: Model, path: Path) -> None:
    """Write the file as a whole or not at all; one that is there is replaced. `InvalidInput` names the operator that ONNX
    lacks, or the line that torch cannot follow; so it does an estimator, which is no network."""
    content = _checked(model).SerializeToString()
    try:
        write_atomically(path, content)
        path.chmod(0o644)  # what was temporary only its owner could read
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error}") from None


def _checked(model: Model) -> Any:
    """The `onnx.ModelProto`, as ONNX's own checker passes it."""
    try:
        import onnx
        import onnxscript as onnxscript  # what torch writes it with
    except ImportError as error:
        raise InvalidInput("a model is exported by two libraries: pip install 'mlplat[onnx]'") from error
    size = sum(value.nbytes for value in model.weights.values())
    if size > LARGEST:
        raise InvalidInput(f"the weights are {size:,} bytes, and an ONNX file holds less than 2 GiB")
    proto = _translated(model)
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]  # torch's own notes, among them the lines of this machine's files
    onnx.helper.set_model_props(proto, _properties(model))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _properties(model: Model) -> dict[str, str]:
    parts = {
        "signature": model.signature.to_json(),
        "encoding": model.encoding.to_json(),
        "task": model.task.to_json(),
    }
    return {"mlplat.digest": model.digest} | {
        f"mlplat.{name}": canonical(part).decode() for name, part in parts.items()
    }


def _translated(model: Model) -> Any:
    if isinstance(model.network, Estimator):
        raise InvalidInput(f"the model is an estimator, {model.network.kind}, and only networks are exported")
    network = running(model.network, model.weights, model.encoding, outputs=model.task.outputs)
    program = traced(_Answering(network, model.task.kind).eval(), model.encoding, remedy=_REMEDY)
    try:
        with _quiet():
            return torch.onnx.export(
                program,
                input_names=["numeric", "codes"],
                output_names=[OUTPUTS[model.task.kind]],
                dynamic_shapes=({0: "rows"}, {0: "rows"}),
                dynamo=True,
                verbose=False,
            ).model_proto
    except torch.onnx.OnnxExporterError as error:
        found = _OPERATOR.search(str(error))
        what = f"there is no {found[1]} in ONNX" if found else str(error).strip().splitlines()[0]
        raise InvalidInput(f"the network cannot be written in ONNX: {what}; {_REMEDY}") from error


class _Answering(nn.Module):  # type: ignore[misc]
    """The network, and what `Task.predictions` makes of its numbers."""

    def __init__(self, network: Callable[..., torch.Tensor], kind: Kind) -> None:
        super().__init__()
        self.network, self._kind = network, kind

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        raw = self.network(numeric, codes)
        if self._kind == "multiclass":
            return torch.softmax(raw, dim=1)
        return torch.sigmoid(raw[:, 0]) if self._kind == "binary" else raw[:, 0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch writes to its own authors: of what it deprecates, of libraries that are not there."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
