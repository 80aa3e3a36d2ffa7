"""The numerics against slow oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.train import evaluate

_PAIRS = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))), min_size=1
)


def _arrays(pairs: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([y for y, _ in pairs], dtype=float), np.array([p for _, p in pairs])


@pytest.mark.slow
@given(_PAIRS)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, float]]) -> None:
    y, p = _arrays(pairs)
    wins = [(a > b) + 0.5 * (a == b) for a in p[y == 1] for b in p[y == 0]]
    found = evaluate.auc(y, p)
    assert (math.isnan(found) and not wins) or found == pytest.approx(np.mean(wins), abs=1e-12)


@pytest.mark.slow
@given(_PAIRS)
def test_log_loss_and_brier_are_means_over_the_rows(pairs: list[tuple[int, float]]) -> None:
    y, p = _arrays(pairs)
    inside = [min(max(float(q), evaluate.EPSILON), 1 - evaluate.EPSILON) for q in p]
    losses = [-math.log(q) if label == 1 else -math.log(1 - q) for label, q in zip(y, inside, strict=True)]
    assert evaluate.log_loss(y, p) == pytest.approx(sum(losses) / len(losses), rel=1e-9, abs=1e-12)
    squares = [(float(q) - label) ** 2 for label, q in zip(y, p, strict=True)]
    assert evaluate.brier(y, p) == pytest.approx(sum(squares) / len(squares), abs=1e-12)


@pytest.mark.slow
@given(_PAIRS)
def test_no_constant_beats_the_base(pairs: list[tuple[int, float]]) -> None:
    y, p = _arrays(pairs)
    assert evaluate.base_log_loss(y) <= evaluate.log_loss(y, np.full(len(y), p[0])) + 1e-12


@pytest.mark.slow
@given(_PAIRS)
def test_calibration_bins_hold_every_row_once(pairs: list[tuple[int, float]]) -> None:
    y, p = _arrays(pairs)
    bins = evaluate.calibration(y, p)
    assert sum(bins.rows) == len(y)
    assert max(bins.rows) - min(bins.rows) <= 1
    assert sum(o * n for o, n in zip(bins.observed, bins.rows, strict=True)) == pytest.approx(y.sum())
    assert list(bins.predicted) == sorted(bins.predicted)
    assert 0 <= bins.error <= 1


def test_true_probabilities_are_calibrated_and_halved_ones_are_not() -> None:
    random = np.random.default_rng(0)
    p = random.random(50_000)
    y = (random.random(50_000) < p).astype(float)
    assert evaluate.calibration(y, p).error < 0.02
    assert evaluate.calibration(y, p / 2).error > 0.2


def test_nan_stays_nan() -> None:
    y, p = np.array([0.0, 1.0]), np.array([0.5, math.nan])
    assert math.isnan(evaluate.log_loss(y, p))
    assert math.isnan(evaluate.auc(y, p))
    assert math.isnan(evaluate.brier(y, p))


def test_nothing_is_measured_without_rows() -> None:
    empty = np.empty(0)
    assert all(math.isnan(value) for value in evaluate.summary(empty, empty).values())
