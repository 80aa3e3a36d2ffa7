"""How far two columns are apart."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mlplat.stats import ColumnSketch, outside, overlap, psi

RANDOM = np.random.default_rng(5)
KEPT = ColumnSketch.of(pl.Series(RANDOM.normal(size=20_000)))
TEXT = ColumnSketch.of(pl.Series(["a"] * 600 + ["b"] * 300 + ["c"] * 100))


def normal(mean: float, std: float, rows: int = 5_000) -> ColumnSketch:
    return ColumnSketch.of(pl.Series(RANDOM.normal(mean, std, rows)))


def found(measured: float | None) -> float:
    assert measured is not None
    return measured


def test_the_same_distribution_is_near_and_a_moved_or_stretched_one_is_far() -> None:
    assert found(psi(KEPT, normal(0, 1))) < 0.03
    assert found(psi(KEPT, normal(0.5, 1))) > 0.15
    assert found(psi(KEPT, normal(0, 2))) > 0.25
    assert found(psi(KEPT, normal(32, 1.8))) > 2


def test_the_index_is_that_of_the_deciles() -> None:
    """Of a known shift between uniform numbers: 0.1 of the mass leaves the first bin and lands beyond the last."""
    kept, given = (ColumnSketch.of(pl.Series(np.arange(0.5, 1000) / 1000 + moved)) for moved in (0, 0.1))
    # First bin 0.1 -> 0 (floored), last bin 0.1 -> 0.2.
    exact = (0.1 - 1e-4) * np.log(0.1 / 1e-4) + (0.1 - 0.2) * np.log(0.1 / 0.2)
    assert found(psi(kept, given)) == pytest.approx(exact, rel=0.35)


@pytest.mark.parametrize("other", [-1.0, 1.0, 0.999])
def test_a_constant_that_becomes_another_is_far(other: float) -> None:
    zero, changed = (ColumnSketch.of(pl.Series([value] * 500)) for value in (0.0, other))
    assert found(psi(zero, changed)) > 5
    assert psi(zero, zero) == 0
    assert outside(zero, changed) == 1


def test_a_spike_that_vanishes_is_far() -> None:
    values = RANDOM.normal(size=4_000)
    spiked = ColumnSketch.of(pl.Series(np.where(np.arange(4_000) % 2 == 0, 0.0, values)))
    assert found(psi(spiked, ColumnSketch.of(pl.Series(values)))) > 1


def test_outside_is_the_share_beyond_the_extremes() -> None:
    kept = ColumnSketch.of(pl.Series([0.0, 10.0]))
    assert outside(kept, ColumnSketch.of(pl.Series([-1.0, 0.0, 5.0, 10.0, 11.0]))) == pytest.approx(0.4)


def test_overlap_is_the_common_share_of_the_frequent_values() -> None:
    assert overlap(TEXT, TEXT) == pytest.approx(1)
    assert overlap(TEXT, ColumnSketch.of(pl.Series(["A", "B"]))) == 0
    assert overlap(TEXT, ColumnSketch.of(pl.Series(["a", "b", "b", "b"]))) == pytest.approx(0.25 + 0.3)


def test_ids_have_no_frequent_values_to_compare() -> None:
    ids = ColumnSketch.of(pl.Series([f"id{i}" for i in range(5_000)]))
    assert overlap(ids, TEXT) is None


def test_nothing_is_measured_of_columns_without_values() -> None:
    empty = ColumnSketch.of(pl.Series([None, None], dtype=pl.Float64))
    assert psi(KEPT, empty) is None
    assert psi(empty, KEPT) is None
    assert outside(KEPT, empty) is None
    assert overlap(TEXT, ColumnSketch.of(pl.Series([None], dtype=pl.String))) is None
