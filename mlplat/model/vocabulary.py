"""Words for spaces of networks: each gives a space (`mlplat.space`) of what `mlplat.model.architecture` has, and takes spaces.

What comes of one is an `Architecture`: a value that JSON can hold and `mlplat.model.build` makes a module of.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from mlplat.errors import InvalidInput
from mlplat.model.architecture import (
    Activation,
    Architecture,
    Cell,
    Dense,
    Dropout,
    Edge,
    InputBlock,
    Layer,
    Norm,
    Residual,
    live_edges,
)
from mlplat.model.canonical import canonical
from mlplat.model.space import Choice, Made, choice, made


def network(*layers: Any, embedding_max: Any = 32, dropout: Any = 0.0) -> Made:
    """Layers in their order; `embedding_max` and `dropout` are those of the input."""
    return made(_network, list(layers), made(InputBlock, embedding_max=embedding_max, dropout=dropout))


def dense(units: Any) -> Made:
    return made(Dense, units=units)


def activation(name: Any = "relu") -> Made:
    return made(Activation, name=name)


def norm(name: Any = "layer") -> Made:
    return made(Norm, name=name)


def dropout(rate: Any) -> Made:
    return made(Dropout, rate=rate)


def residual(*layers: Any) -> Made:
    """What comes in, plus what the layers make of it."""
    return made(_residual, list(layers))


def connection(*layers: Any, name: str | None = None) -> Choice:
    """The layers as they are, or with a connection past them."""
    return choice(name=name, plain=list(layers), residual=residual(*layers))


def cell(nodes: int, *, name: str, **operations: Any) -> Made:
    """A graph of so many nodes, its input and output among them: each pair of them is connected by one of the `operations` (lists
    of layers, by their labels), by nothing ("none"), or as it is ("skip"). Its places are called `name.SOURCE-TARGET`, and those
    of the operations' own choices are the same on all edges. So several cells of one name are alike."""
    if nodes < 2:
        raise InvalidInput(f"cell: nodes={nodes} must be at least 2: its input and its output")
    pairs = list(combinations(range(nodes), 2))
    options: Mapping[str, Any] = {"none": None, "skip": [], **operations}
    return made(_cell, pairs, [made(_one, choice(name=f"{name}.{i}-{j}", **options)) for i, j in pairs])


def same_network(architecture: Architecture) -> str:
    """A text that is the same for architectures that compute the same, up to the order of what is summed and edges that lead
    nowhere: isomorphic cells are one network."""
    return canonical([architecture.to_json()["input"], [_key(layer) for layer in architecture.layers]]).decode()


def _key(layer: Layer) -> Any:
    if isinstance(layer, Residual):
        return ["residual", [_key(inner) for inner in layer.layers]]
    if not isinstance(layer, Cell):
        return Architecture(layers=(layer,)).to_json()["layers"][0]
    said: dict[int, str] = {0: "input"}
    edges = live_edges(layer.edges)
    for target in dict.fromkeys(edge.target for edge in edges):
        parts = [[[_key(inner) for inner in e.layers], said[e.source]] for e in edges if e.target == target]
        said[target] = canonical(sorted(parts, key=canonical)).decode()
    return ["cell", sorted(said.values()), said[edges[-1].target]]


def _network(layers: list[Layer], block: InputBlock) -> Architecture:
    return Architecture(layers=tuple(layers), input=block)


def _residual(layers: list[Layer]) -> Residual:
    return Residual(layers=tuple(layers))


def _one(layers: list[Layer] | None) -> tuple[Layer, ...] | None:
    """A list in a list would be spliced."""
    return None if layers is None else tuple(layers)


def _cell(pairs: list[tuple[int, int]], layers: list[tuple[Layer, ...] | None]) -> Cell:
    edges = zip(pairs, layers, strict=True)
    return Cell(edges=tuple(Edge(source=i, target=j, layers=given) for (i, j), given in edges if given is not None))
