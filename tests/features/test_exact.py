"""Sums of stretches are those of `math.fsum`, to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.features import windows
from mlplat.features.exact import FixedPoint

near = st.floats(-1e6, 1e6, allow_nan=False)
tiny = st.floats(-1e-300, 1e-300, allow_nan=False)  # down to the subnormal ones
large = st.one_of(st.floats(1e290, 1.7e308), st.floats(-1.7e308, -1e290))  # up to sums that overflow
ties = st.sampled_from([2.0**53, 1.0, 0.5, -0.5, 2.0**-52, 1.0 + 2.0**-52, -(2.0**53), 3.0, 2.0**60])


def every_stretch(n: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(lo, hi) for lo in range(n + 1) for hi in range(lo, n + 1)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers", [near, tiny, large, ties, st.one_of(ties, near)], ids=["near", "tiny", "large", "ties", "mixed"]
)
def test_sums_are_rounded_once_to_nearest_ties_to_even(numbers: st.SearchStrategy[float]) -> None:
    @given(st.lists(numbers, max_size=9))
    def check(values: list[float]) -> None:
        array = np.array(values, dtype=np.float64)
        fixed = FixedPoint.of(array)
        if fixed is None:
            return
        lo, hi = every_stretch(len(values))
        wanted = windows._slow_sum(array, lo, hi)
        assert (fixed.sums(lo, hi) + 0.0).tobytes() == (wanted + 0.0).tobytes()

    check()


def test_a_long_array_sums_exactly() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=20_000) * 10.0 ** random.integers(-8, 8, size=20_000)
    lo = random.integers(0, 20_000, size=300)
    hi = lo + random.integers(0, 20_000 - lo)
    fixed = FixedPoint.of(values)
    assert fixed is not None
    assert fixed.sums(lo, hi).tolist() == [math.fsum(values[a:b]) for a, b in zip(lo, hi, strict=True)]


def test_numbers_too_far_apart_are_left_to_the_loop() -> None:
    assert FixedPoint.of(np.array([1e300, 1e-300])) is None


def test_nothing_and_zeros_sum_to_zero() -> None:
    for values in (np.empty(0), np.zeros(3)):
        fixed = FixedPoint.of(values)
        assert fixed is not None
        assert fixed.sums(np.array([0]), np.array([len(values)])).tolist() == [0.0]
