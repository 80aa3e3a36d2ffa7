"""A network of the vocabulary on few rows: torch's arithmetic in numpy, whose calls cost a tenth of torch's.

Its numbers are those of `build.Network` in evaluation, but for the order in which a product's terms are added: a property test
holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlplat.model.architecture import Activation, Architecture, Cell, Dense, Dropout, Layer, Norm, live_edges

Array = np.ndarray[Any, Any]
Step = Callable[[Array], Array]
Weights = Mapping[str, Array]

MAX_LAYER = 9_000
"""Weights of a layer: above them OpenBLAS would wake threads, and torch's fixed cost is no longer what counts."""
_EPS = np.float32(1e-5)  # torch's own, of both normalisations


def few(architecture: Architecture, weights: Weights) -> Callable[[Array, Array], Array] | None:
    """From numeric float32 [n, k] and codes int64 [n, c] to float64 [n, outputs]. None for a network that is too large, or
    whose activation numpy has not."""
    if not all(_known(layer) for layer in architecture.layers) or max(w.size for w in weights.values()) > MAX_LAYER:
        return None
    weights = {name: w.astype(np.float32, copy=False) for name, w in weights.items()}  # as torch's modules hold them
    embeddings = [weights[f"embeddings.{i}.weight"] for i in range(_count(weights))]
    body, head = _sequence(architecture.layers, weights, "body."), _linear(weights, "head.")

    def logits(numeric: Array, codes: Array) -> Array:
        x = numeric
        if embeddings:
            x = np.concatenate([numeric, *(table[codes[:, i]] for i, table in enumerate(embeddings))], axis=1)
        for step in body:
            x = step(x)
        return head(x).astype(np.float64)

    return logits


def _known(layer: Layer) -> bool:
    if isinstance(layer, Activation):
        return layer.name in _ACTIVATIONS
    if isinstance(layer, Cell):
        return all(_known(inner) for edge in layer.edges for inner in edge.layers)
    return isinstance(layer, Dense | Dropout | Norm) or all(map(_known, layer.layers))


def _count(weights: Weights) -> int:
    return sum(name.startswith("embeddings.") for name in weights)


def _sequence(layers: Sequence[Layer], weights: Weights, prefix: str) -> list[Step]:
    return [_step(layer, weights, f"{prefix}{i}.") for i, layer in enumerate(layers) if not isinstance(layer, Dropout)]


def _step(layer: Layer, weights: Weights, prefix: str) -> Step:
    if isinstance(layer, Dense):
        return _linear(weights, prefix)
    if isinstance(layer, Activation):
        return _ACTIVATIONS[layer.name]
    if isinstance(layer, Norm):
        return (_batch if layer.name == "batch" else _layer)(weights, prefix)
    if isinstance(layer, Cell):
        return _graph(layer, weights, prefix)
    assert not isinstance(layer, Dropout)
    return _residual(_sequence(layer.layers, weights, f"{prefix}inner."), weights, prefix)


def _linear(weights: Weights, prefix: str) -> Step:
    product, bias = np.ascontiguousarray(weights[f"{prefix}weight"].T), weights[f"{prefix}bias"]
    return lambda x: x @ product + bias


def _relu(x: Array) -> Array:
    return np.maximum(x, np.float32(0.0))


def _silu(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(-x) of a very negative x is infinite, and x / inf is 0
        powers: Array = np.exp(-x)
    return x / (np.float32(1.0) + powers)


_ACTIVATIONS: Mapping[str, Step] = {"relu": _relu, "tanh": np.tanh, "silu": _silu}


def _batch(weights: Weights, prefix: str) -> Step:
    scale = weights[f"{prefix}weight"] / np.sqrt(weights[f"{prefix}running_var"] + _EPS)
    shift = weights[f"{prefix}bias"] - weights[f"{prefix}running_mean"] * scale
    return lambda x: x * scale + shift


def _layer(weights: Weights, prefix: str) -> Step:
    scale, shift = weights[f"{prefix}weight"], weights[f"{prefix}bias"]

    def normalised(x: Array) -> Array:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred * centred).mean(axis=1, keepdims=True)
        out: Array = centred / np.sqrt(variance + _EPS) * scale + shift
        return out

    return normalised


def _residual(inner: Sequence[Step], weights: Weights, prefix: str) -> Step:
    fit = weights.get(f"{prefix}fit.weight")
    product = None if fit is None else np.ascontiguousarray(fit.T)

    def added(x: Array) -> Array:
        inside = x
        for step in inner:
            inside = step(inside)
        through: Array = x if product is None else x @ product
        return through + inside

    return added


def _graph(cell: Cell, weights: Weights, prefix: str) -> Step:
    edges, steps = live_edges(cell.edges), []
    for i, edge in enumerate(edges):
        fit = weights.get(f"{prefix}inner.{i}.1.weight")
        inside = _sequence(edge.layers, weights, f"{prefix}inner.{i}.0.")
        steps.append([*inside, *([] if fit is None else [_product(fit)])])

    def through(x: Array) -> Array:
        nodes = {0: x}
        for edge, inside in zip(edges, steps, strict=True):
            brought = nodes[edge.source]
            for step in inside:
                brought = step(brought)
            nodes[edge.target] = nodes[edge.target] + brought if edge.target in nodes else brought
        return nodes[edges[-1].target]

    return through


def _product(weight: Array) -> Step:
    transposed = np.ascontiguousarray(weight.T)
    return lambda x: x @ transposed
