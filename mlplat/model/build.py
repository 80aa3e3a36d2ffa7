"""Architecture to torch module, and weights in and out of one. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mlplat.errors import InvalidInput
from mlplat.model.architecture import (
    Activation,
    Architecture,
    Cell,
    Dense,
    Dropout,
    InputBlock,
    Layer,
    Norm,
    live_edges,
)
from mlplat.model.inputs import RESERVED_SLOTS, InputEncoding
from mlplat.model.keras import wrapped
from mlplat.model.shape import Shape

Array = np.ndarray[Any, Any]

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def build(architecture: Architecture, inputs: InputEncoding, *, outputs: int = 1) -> nn.Module:
    """A fresh module. `forward(numeric float32 [n, k], codes int64 [n, c])` gives logits [n, outputs].

    The first weights come from torch's own generator: seed it before the call.
    """
    return Network(architecture, numeric=inputs.width, slots=inputs.slots, outputs=outputs)


def made(network: Callable[[Shape], object], shape: Shape) -> nn.Module:
    """A fresh module of a user's class or function; a Keras model comes as one. `InvalidInput` if it gives anything else."""
    module = wrapped(network(shape), shape)
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"the network gave {type(module).__name__}, and not a torch.nn.Module")
    return module


class Network(nn.Module):  # type: ignore[misc]
    """Input block, body, head."""

    def __init__(self, architecture: Architecture, *, numeric: int, slots: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(_embedding(architecture.input, n) for n in slots)
        width = numeric + sum(e.embedding_dim for e in self.embeddings)
        self.input_dropout = nn.Dropout(architecture.input.dropout)
        self.body, width = _sequence(architecture.layers, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        parts = [numeric, *(embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings))]
        return self.head(self.body(self.input_dropout(torch.cat(parts, dim=1))))


class ResidualBlock(nn.Module):  # type: ignore[misc]
    """x + f(x), with a linear fit where the widths differ."""

    def __init__(self, inner: nn.Module, width_in: int, width_out: int) -> None:
        super().__init__()
        self.inner = inner
        self.fit = nn.Identity() if width_in == width_out else nn.Linear(width_in, width_out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fit(x) + self.inner(x)


class Graph(nn.Module):  # type: ignore[misc]
    """The nodes of a cell, in order."""

    def __init__(self, cell: Cell, width: int) -> None:
        super().__init__()
        self.edges = live_edges(cell.edges)
        widths, inner = {0: width}, []
        for target in dict.fromkeys(edge.target for edge in self.edges):
            brought = [_sequence(e.layers, widths[e.source]) for e in self.edges if e.target == target]
            widths[target] = max(width_out for _, width_out in brought)
            inner += [nn.Sequential(module, *_fitting(out, widths[target])) for module, out in brought]
        self.inner = nn.ModuleList(inner)
        self.width = widths[self.edges[-1].target]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = {0: x}
        for edge, module in zip(self.edges, self.inner, strict=True):
            brought = module(nodes[edge.source])
            nodes[edge.target] = nodes[edge.target] + brought if edge.target in nodes else brought
        return nodes[self.edges[-1].target]


def _fitting(width_in: int, width_out: int) -> list[nn.Module]:
    return [] if width_in == width_out else [nn.Linear(width_in, width_out, bias=False)]


def load_weights(module: nn.Module, weights: Mapping[str, Array]) -> nn.Module:
    """Put weights in and switch to evaluation."""
    # A copy, because torch would otherwise share (and could change) the arrays of an immutable model.
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()}, strict=True)
    return module.eval()


def read_weights(module: nn.Module) -> dict[str, Array]:
    """A copy of the weights as numpy arrays."""
    return {name: np.array(value.detach().cpu().numpy()) for name, value in module.state_dict().items()}


def logits(module: Callable[..., torch.Tensor], numeric: Array, codes: Array) -> Array:
    """float64 [n, outputs] of an evaluating module on the CPU."""
    with torch.inference_mode():
        out: Array = module(torch.from_numpy(numeric), torch.from_numpy(codes)).numpy()
    return out.astype(np.float64)


def _embedding(block: InputBlock, slots: int) -> nn.Embedding:
    embedding = nn.Embedding(slots, block.width(slots))
    with torch.no_grad():  # what training never shows must add nothing, not noise
        embedding.weight[:RESERVED_SLOTS] = 0.0
    return embedding


def _sequence(layers: Sequence[Layer], width: int) -> tuple[nn.Sequential, int]:
    modules: list[nn.Module] = []
    for layer in layers:
        module, width = _module(layer, width)
        modules.append(module)
    return nn.Sequential(*modules), width


def _module(layer: Layer, width: int) -> tuple[nn.Module, int]:
    if isinstance(layer, Dense):
        return nn.Linear(width, layer.units), layer.units
    if isinstance(layer, Activation):
        return _ACTIVATIONS[layer.name](), width
    if isinstance(layer, Dropout):
        return nn.Dropout(layer.rate), width
    if isinstance(layer, Norm):
        return _NORMS[layer.name](width), width
    if isinstance(layer, Cell):
        graph = Graph(layer, width)
        return graph, graph.width
    inner, width_out = _sequence(layer.layers, width)
    return ResidualBlock(inner, width, width_out), width_out
