"""Networks on few rows in numpy are torch's, but for float32's rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.model import Architecture, mlp
from mlplat.model.architecture import Activation, Cell, Dense, Dropout, Edge, InputBlock, Layer, Norm, Residual
from mlplat.model.build import build, load_weights, logits
from mlplat.model.few import MAX_LAYER, few
from mlplat.model.inputs import FEW_ROWS
from tests.model.support import encoding_of

FLAT = st.one_of(
    st.builds(Dense, units=st.integers(1, 24)),
    st.builds(Activation, name=st.sampled_from(["relu", "silu", "tanh"])),
    st.builds(Norm, name=st.sampled_from(["batch", "layer"])),
    st.builds(Dropout, rate=st.just(0.3)),
)
SOME = st.lists(FLAT, max_size=2).map(tuple)
CELLS = st.tuples(SOME, SOME, SOME).map(
    lambda parts: Cell(
        edges=tuple(
            Edge(source=i, target=j, layers=p) for (i, j), p in zip([(0, 1), (0, 2), (1, 2)], parts, strict=True)
        )
    )
)
LAYERS: st.SearchStrategy[Layer] = st.one_of(
    FLAT, st.builds(Residual, layers=st.lists(FLAT, min_size=1, max_size=3).map(tuple)), CELLS
)


@pytest.mark.slow
@given(
    layers=st.lists(LAYERS, max_size=4).map(tuple),
    slots=st.lists(st.integers(3, 9), max_size=2).map(tuple),
    outputs=st.integers(1, 3),
    rows=st.integers(0, FEW_ROWS),
    seed=st.integers(0, 1_000),
)
@settings(max_examples=60, deadline=None)
def test_few_rows_are_answered_as_torch_does(
    layers: tuple[Layer, ...], slots: tuple[int, ...], outputs: int, rows: int, seed: int
) -> None:
    architecture, encoding = Architecture(layers=layers, input=InputBlock(embedding_max=4)), encoding_of(5, slots)
    rng = np.random.default_rng(seed)
    module = build(architecture, encoding, outputs=outputs)
    weights = {name: _like(name, value, rng) for name, value in module.state_dict().items()}
    load_weights(module, weights)
    numeric = (3 * rng.standard_normal((rows, 5))).astype(np.float32)
    codes = np.column_stack([*(rng.integers(0, n, rows) for n in slots), np.zeros((rows, 0), dtype=np.int64)])
    quick = few(architecture, weights)
    assert quick is not None
    found, wanted = quick(numeric, codes.astype(np.int64)), logits(module, numeric, codes.astype(np.int64))
    assert found.shape == wanted.shape == (rows, outputs)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def _like(name: str, value: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(value.shape)
    if name.endswith("num_batches_tracked"):
        return np.array(7)
    if name.endswith("running_var"):
        return (0.5 + rng.random(shape)).astype(np.float32)
    return (rng.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5).astype(np.float32)


@pytest.mark.parametrize("architecture", [mlp((8,), activation="gelu"), mlp((MAX_LAYER,))], ids=["gelu", "large"])
def test_what_numpy_has_not_or_would_not_gain_is_left_to_torch(architecture: Architecture) -> None:
    module = build(architecture, encoding_of(5))
    assert few(architecture, {name: value.numpy() for name, value in module.state_dict().items()}) is None
