"""Looking after every observation must not find what is not there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlplat.stats.sequential import difference, split_p, unit_means

LOOKS = [20, 50, 100, 200, 400, 800, 1_600, 3_200]


def test_at_every_look_at_once_the_truth_is_inside_but_for_alpha() -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        one, other = random.exponential(size=LOOKS[-1]), random.exponential(size=2 * LOOKS[-1])
        found = [difference(one[:n], other[: 2 * n], alpha=0.05, scale=0.1) for n in LOOKS]
        wrong += any(not f.low <= 0 <= f.high for f in found)
    assert wrong / 400 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_real_difference_is_found_and_the_bounds_narrow() -> None:
    random = np.random.default_rng(1)
    one, other = random.normal(0.3, size=5_000), random.normal(0.0, size=5_000)
    found = [difference(one[:n], other[:n], alpha=0.05, scale=0.1) for n in LOOKS]
    assert found[-1].low > 0
    widths = [f.high - f.low for f in found]
    assert widths == sorted(widths, reverse=True)
    back = difference(other, one, alpha=0.05, scale=0.1)
    whole = difference(one, other, alpha=0.05, scale=0.1)
    assert (back.low, back.high) == pytest.approx((-whole.high, -whole.low))


def test_too_little_says_nothing() -> None:
    for one, other in (([], [1.0, 2.0]), ([1.0], [1.0, 2.0]), ([1.0, 1.0], [2.0, 2.0]), ([1.0, math.nan], [1.0, 2.0])):
        found = difference(np.array(one), np.array(other), alpha=0.05, scale=0.1)
        assert (found.low, found.high) == (-math.inf, math.inf)


def test_rows_of_a_unit_count_as_one() -> None:
    assert sorted(unit_means(np.array(["a", "b", "a"]), np.array([1.0, 5.0, 3.0]))) == [2.0, 5.0]


def test_an_uneven_split_is_improbable() -> None:
    assert split_p((100, 900), 0.1) == pytest.approx(1.0)
    assert split_p((150, 850), 0.1) < 1e-6
    assert 0.05 < split_p((110, 890), 0.1) < 0.5
    assert split_p((0, 0), 0.1) == split_p((5, 0), 1.0) == 1.0
