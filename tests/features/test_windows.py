"""Window aggregates: exact, whatever the path."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.features import windows
from mlplat.features.definitions import AGGREGATES, WindowFeature

whole = st.integers(-(2**40), 2**40).map(float)
rough = st.floats(allow_nan=False, allow_infinity=False)
gap = st.just(float("nan"))


def feature(aggregate: str) -> WindowFeature:
    return WindowFeature(name="x", aggregate=aggregate, column="v", window_us=1)  # type: ignore[arg-type]


def bounds(n: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(lo, hi) for lo in range(n + 1) for hi in range(lo, n + 1)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(whole, st.just(-0.0)), max_size=8))
def test_the_fast_sum_of_whole_numbers_is_the_slow_sum(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    lo, hi = bounds(len(values))
    prefix = windows.Column(array).prefix
    assert prefix is not None
    fast, slow = prefix[hi] - prefix[lo] + 0.0, windows._slow_sum(array, lo, hi) + 0.0
    assert fast.tobytes() == slow.tobytes()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(whole, rough, gap), max_size=7), st.randoms())
def test_a_window_is_the_same_alone_among_others_and_in_any_order(values: list[float], random) -> None:  # type: ignore[no-untyped-def]
    array = np.array(values, dtype=np.float64)
    lo, hi = bounds(len(values))
    for aggregate in AGGREGATES:
        together = windows.aggregate(feature(aggregate), windows.Column(array), lo, hi)
        for i, (a, b) in enumerate(zip(lo, hi, strict=True)):
            part = array[a:b].copy()
            if aggregate != "last":
                random.shuffle(part)
            alone = windows.aggregate(feature(aggregate), windows.Column(part), np.array([0]), np.array([b - a]))
            assert alone[0].tobytes() == together[i].tobytes(), (aggregate, part)


def test_a_sum_is_rounded_once() -> None:
    values = np.array([1e16, *[1.0] * 10, -1e16])
    assert windows.aggregate(feature("sum"), windows.Column(values), np.array([0]), np.array([12])).tolist() == [10.0]


def test_a_sum_whose_parts_overflow_is_still_right_in_every_order() -> None:
    for values in ([1e308, 1e308, -1e308], [1e308, -1e308, 1e308]):
        assert windows.aggregate(
            feature("sum"), windows.Column(np.array(values)), np.array([0]), np.array([3])
        ).tolist() == [1e308]
    beyond = windows.aggregate(feature("sum"), windows.Column(np.array([1e308, 1e308])), np.array([0]), np.array([2]))
    assert beyond.tolist() == [math.inf]


def test_nulls_take_no_part_and_an_empty_window_is_null() -> None:
    values = np.array([np.nan, 3.0, np.nan])
    lo, hi = np.array([0, 0, 2]), np.array([3, 1, 2])
    found = {a: windows.aggregate(feature(a), windows.Column(values), lo, hi).tolist() for a in AGGREGATES}
    assert found["count"] == [1, 0, 0]
    for aggregate in ("sum", "mean", "min", "max", "last"):
        assert found[aggregate][0] == 3.0
        assert all(math.isnan(v) for v in found[aggregate][1:])
