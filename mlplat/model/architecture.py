"""The vocabulary in which a network is written: layers over one input block, as a value that JSON can hold and a
search can change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

from mlplat.errors import InvalidInput

ActivationName = Literal["relu", "gelu", "silu", "tanh"]
NormName = Literal["batch", "layer"]
MAX_UNITS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A linear layer with a bias, `units` wide."""

    kind: ClassVar[str] = "dense"
    units: int

    def __post_init__(self) -> None:
        _check(
            _whole(self.units) and 1 <= self.units <= MAX_UNITS, f"dense: units={self.units!r} is not in 1..{MAX_UNITS}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A function of each number."""

    kind: ClassVar[str] = "activation"
    name: ActivationName = "relu"

    def __post_init__(self) -> None:
        known = get_args(ActivationName)
        _check(self.name in known, f"activation: {self.name!r} is not one of {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """Sets this share of the numbers to zero, while training only."""

    kind: ClassVar[str] = "dropout"
    rate: float

    def __post_init__(self) -> None:
        _check(_number(self.rate) and 0 <= self.rate < 1, f"dropout: rate={self.rate!r} is not in 0..1, 1 excluded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """Batch or layer normalisation."""

    kind: ClassVar[str] = "norm"
    name: NormName = "layer"

    def __post_init__(self) -> None:
        known = get_args(NormName)
        _check(self.name in known, f"norm: {self.name!r} is not one of {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """The input plus what `layers` make of it; a linear layer without bias fits the widths where they differ."""

    kind: ClassVar[str] = "residual"
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        _check(len(self.layers) > 0, "residual: it has no layers")
        _check_layers(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """From node `source` to node `target` of a cell, through `layers`; without any as it is."""

    source: int
    target: int
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        ok = _whole(self.source) and _whole(self.target) and 0 <= self.source < self.target
        _check(ok, f"cell: an edge from {self.source!r} to {self.target!r} does not go forward from a node")
        _check_layers(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A small graph. Node 0 is its input, the last one its output; each other node is the sum of what its edges bring, where a
    linear layer without bias fits those that are narrower than the widest. Edges that are on no way from the input to the
    output are left out."""

    kind: ClassVar[str] = "cell"
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        known = isinstance(self.edges, tuple) and all(isinstance(edge, Edge) for edge in self.edges)
        _check(known, f"cell: edges must be a tuple of Edge, not {self.edges!r}")
        _check(bool(live_edges(self.edges)), "cell: nothing goes from its input to its output")


def live_edges(edges: Sequence[Edge]) -> list[Edge]:
    """Those on a way from node 0 to the last node, sources first."""
    if not edges:
        return []
    last = max(edge.target for edge in edges)
    reached, needed = {0}, {last}
    for edge in sorted(edges, key=lambda edge: edge.target):
        if edge.source in reached:
            reached.add(edge.target)
    for edge in sorted(edges, key=lambda edge: edge.source, reverse=True):
        if edge.target in needed and edge.source in reached:
            needed.add(edge.source)
    live = [edge for edge in edges if edge.source in reached and edge.target in needed]
    return sorted(live, key=lambda edge: (edge.target, edge.source)) if last in reached else []


Layer = Dense | Activation | Dropout | Norm | Residual | Cell
_LAYERS: Mapping[str, type[Layer]] = {c.kind: c for c in (Dense, Activation, Dropout, Norm, Residual, Cell)}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputBlock:
    """Numeric columns beside an embedding of each categorical one: `min(embedding_max, round(1.6 * slots ** 0.56))`
    wide, the rule of fastai's tabular learner."""

    embedding_max: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        ok = _whole(self.embedding_max) and 1 <= self.embedding_max <= MAX_UNITS
        _check(ok, f"input: embedding_max={self.embedding_max!r} is not in 1..{MAX_UNITS}")
        _check(
            _number(self.dropout) and 0 <= self.dropout < 1,
            f"input: dropout={self.dropout!r} is not in 0..1, 1 excluded",
        )

    def width(self, slots: int) -> int:
        return int(max(1, min(self.embedding_max, round(1.6 * slots**0.56))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """An input block and layers. The builder adds the head: a linear layer with one number per output."""

    layers: tuple[Layer, ...]
    input: InputBlock = field(default_factory=InputBlock)

    def __post_init__(self) -> None:
        _check_layers(self.layers)

    def to_json(self) -> dict[str, Any]:
        return {"input": asdict(self.input), "layers": [_layer_json(layer) for layer in self.layers]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        try:
            layers = tuple(_layer(item) for item in value["layers"])
            return cls(input=InputBlock(**value.get("input", {})), layers=layers)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"architecture: {error} in {value!r}") from None


def mlp(
    hidden: Sequence[int] = (128, 64),
    *,
    dropout: float = 0.0,
    activation: ActivationName = "relu",
    norm: NormName | None = None,
    embedding_max: int = 32,
) -> Architecture:
    """A multi-layer perceptron: for each width dense, normalisation if any, activation, dropout."""
    layers: list[Layer] = []
    for units in hidden:
        layers.append(Dense(units=units))
        if norm is not None:
            layers.append(Norm(name=norm))
        layers.append(Activation(name=activation))
        if dropout:
            layers.append(Dropout(rate=dropout))
    return Architecture(input=InputBlock(embedding_max=embedding_max), layers=tuple(layers))


def _layer_json(layer: Layer) -> dict[str, Any]:
    if isinstance(layer, Residual):
        return {"kind": layer.kind, "layers": [_layer_json(inner) for inner in layer.layers]}
    if isinstance(layer, Cell):
        return {"kind": layer.kind, "edges": [_edge_json(edge) for edge in layer.edges]}
    return {"kind": layer.kind, **asdict(layer)}


def _edge_json(edge: Edge) -> dict[str, Any]:
    return {"source": edge.source, "target": edge.target, "layers": [_layer_json(layer) for layer in edge.layers]}


def _layer(value: Mapping[str, Any]) -> Layer:
    kind = value.get("kind")
    _check(kind in _LAYERS, f"layer kind {kind!r} is not one of {', '.join(_LAYERS)}")
    arguments = {name: item for name, item in value.items() if name != "kind"}
    if kind == Residual.kind:
        return Residual(layers=tuple(_layer(inner) for inner in arguments["layers"]))
    if kind == Cell.kind:
        edges = ({**edge, "layers": tuple(_layer(inner) for inner in edge["layers"])} for edge in arguments["edges"])
        return Cell(edges=tuple(Edge(**edge) for edge in edges))
    return _LAYERS[str(kind)](**arguments)


def _check_layers(layers: tuple[Layer, ...]) -> None:
    _check(isinstance(layers, tuple), f"layers must be a tuple, not {type(layers).__name__}")
    for position, layer in enumerate(layers):
        _check(
            isinstance(layer, tuple(_LAYERS.values())), f"layer {position} is {layer!r}, which is not in the vocabulary"
        )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return _whole(value) or isinstance(value, float)


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise InvalidInput(f"architecture: {message}")
