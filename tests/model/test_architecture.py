"""The vocabulary: what it accepts, how it refuses, and that JSON keeps it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.model.architecture import Activation, Architecture, Dense, Dropout, InputBlock, Norm, Residual, mlp

_FLAT = st.one_of(
    st.integers(1, 64).map(lambda n: Dense(units=n)),
    st.sampled_from(["relu", "gelu", "silu", "tanh"]).map(lambda n: Activation(name=n)),
    st.floats(0, 0.9).map(lambda r: Dropout(rate=r)),
    st.sampled_from(["batch", "layer"]).map(lambda n: Norm(name=n)),
)
LAYERS = st.lists(
    st.one_of(_FLAT, st.lists(_FLAT, min_size=1, max_size=3).map(lambda ls: Residual(layers=tuple(ls)))), max_size=5
).map(tuple)


@given(LAYERS, st.integers(1, 40))
def test_json_keeps_every_architecture(layers: tuple[Dense, ...], widest: int) -> None:
    one = Architecture(layers=layers, input=InputBlock(embedding_max=widest))
    assert Architecture.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_mlp_is_dense_norm_activation_dropout_for_each_width() -> None:
    assert mlp((8,), dropout=0.1, norm="layer", activation="gelu").layers == (
        Dense(units=8),
        Norm(name="layer"),
        Activation(name="gelu"),
        Dropout(rate=0.1),
    )
    assert [type(layer) for layer in mlp((8, 4)).layers] == [Dense, Activation, Dense, Activation]


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ({"kind": "dense", "units": 0}, "units=0"),
        ({"kind": "dense", "units": 1.5}, "units=1.5"),
        ({"kind": "dense", "units": True}, "units=True"),
        ({"kind": "dense"}, "units"),
        ({"kind": "dense", "units": 3, "colour": "red"}, "colour"),
        ({"kind": "conv"}, "'conv' is not one of dense"),
        ({"kind": "activation", "name": "step"}, "'step' is not one of relu"),
        ({"kind": "dropout", "rate": 1.0}, "rate=1.0"),
        ({"kind": "dropout", "rate": float("nan")}, "rate=nan"),
        ({"kind": "norm", "name": "group"}, "'group'"),
        ({"kind": "residual", "layers": []}, "no layers"),
        ("dense", "'dense'"),
    ],
)
def test_a_wrong_layer_is_refused_by_what_is_wrong_with_it(layer: object, says: str) -> None:
    with pytest.raises(InvalidInput, match="architecture") as caught:
        Architecture.from_json({"layers": [layer]})
    assert says in str(caught.value)


def test_a_layer_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidInput, match="layer 0"):
        Architecture(layers=("dense",))  # type: ignore[arg-type]


@pytest.mark.parametrize(("slots", "width"), [(2, 2), (3, 3), (18, 8), (107, 22), (10_000, 32)])
def test_embeddings_widen_with_the_vocabulary_up_to_a_bound(slots: int, width: int) -> None:
    assert InputBlock(embedding_max=32).width(slots) == width
