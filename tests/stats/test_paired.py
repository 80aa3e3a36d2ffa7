"""Intervals hold the truth as often as they say, and p-values are no smaller than they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.stats.paired import difference, discoveries

RUNS = 300


def coverage(runs: np.ndarray, *, blocks: int) -> tuple[float, float]:  # type: ignore[type-arg]
    """How often the interval of a run holds the true mean 0, and how often a difference is claimed at 5%."""
    found = [difference(rows, blocks=blocks, rounds=400, seed=i) for i, rows in enumerate(runs)]
    return sum(d.low <= 0 <= d.high for d in found) / len(found), sum(d.p_below <= 0.05 for d in found) / len(found)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    skewed = np.random.default_rng(1).exponential(size=(RUNS, 500)) - 1.0
    held, claimed = coverage(skewed, blocks=200)
    assert 0.92 <= held <= 0.98
    assert claimed <= 0.08


@pytest.mark.slow
def test_rows_that_are_like_those_before_them_need_blocks() -> None:
    drifting = np.random.default_rng(2).normal(size=(RUNS, 1_000))
    for at in range(1, drifting.shape[1]):
        drifting[:, at] += 0.9 * drifting[:, at - 1]
    held, claimed = coverage(drifting, blocks=25)
    assert held >= 0.87
    assert claimed <= 0.12
    assert coverage(drifting[:60], blocks=1_000)[0] < 0.6


def test_a_difference_is_found_in_its_direction() -> None:
    found = difference(np.random.default_rng(0).normal(-0.2, 1.0, 2_000))
    assert found.high < 0
    assert found.p_below < 0.001
    assert found.p_above > 0.99


@pytest.mark.parametrize("rows", [[], [1.0], [1.0, np.nan], [np.inf, 0.0]])
def test_what_has_no_mean_is_refused(rows: list[float]) -> None:
    with pytest.raises(InvalidInput, match="differences"):
        difference(np.array(rows))


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.01, 0.5))
def test_discoveries_are_those_of_the_definition(p_values: list[float], rate: float) -> None:
    ranked = sorted(p_values)
    limits = [p for k, p in enumerate(ranked, 1) if p <= rate * k / len(ranked)]
    assert discoveries(p_values, rate=rate) == [bool(limits) and p <= max(limits) for p in p_values]
