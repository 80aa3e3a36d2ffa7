from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.serve.sealed import seal, unseal

KEYS = st.binary(min_size=16, max_size=16)
VALUES = st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.floats())).map(
    tuple
)


def same(one: Any, other: Any) -> bool:
    """To the bit, and of the same kind: 1 is not 1.0, and 0.0 is not -0.0."""
    return repr(one) == repr(other)


@given(KEYS, VALUES)
def test_what_is_sealed_comes_back_to_the_bit(key: bytes, values: tuple[Any, ...]) -> None:
    blob = seal(key, values)
    assert blob is not None
    assert same(unseal(key, blob, len(values)), values)


@given(KEYS, KEYS, VALUES)
def test_another_key_opens_nothing(key: bytes, other: bytes, values: tuple[Any, ...]) -> None:
    blob = seal(key, values)
    assert blob is not None
    assert key == other or unseal(other, blob, len(values)) is None
    assert unseal(key, blob, len(values) + 1) is None


@pytest.mark.slow
@given(KEYS, VALUES, st.data())
def test_one_changed_byte_or_a_lost_one_opens_nothing(key: bytes, values: tuple[Any, ...], data: st.DataObject) -> None:
    blob = seal(key, values)
    assert blob is not None
    at = data.draw(st.integers(0, len(blob) - 1))
    changed = bytes([*blob[:at], blob[at] ^ data.draw(st.integers(1, 255)), *blob[at + 1 :]])
    for wrong in (changed, blob[:at], blob + b" "):
        assert unseal(key, wrong, len(values)) is None


@given(KEYS, st.binary(max_size=64), st.integers(0, 3))
def test_whatever_bytes_there_are_nothing_is_raised(key: bytes, blob: bytes, width: int) -> None:
    assert unseal(key, blob, width) is None


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, 1j, object()])
def test_what_json_cannot_say_is_not_sealed(value: object) -> None:
    assert seal(b"k" * 16, (value,)) is None


def test_nan_and_infinity_are_told_from_null() -> None:
    blob = seal(b"k" * 16, (math.nan, math.inf, -math.inf, None))
    assert blob is not None
    assert repr(unseal(b"k" * 16, blob, 4)) == "(nan, inf, -inf, None)"
