"""Labels are checked before anything is learnt, and the split is by time alone."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from mlplat.errors import InvalidInput
from mlplat.train.rows import check_split, cut_before_end, labels_of, split, times_of


@pytest.mark.parametrize("values", [[0, 1, 1], [0.0, 1.0, 1.0], [False, True, True]])
def test_numbers_and_booleans_are_labels(values: list[object]) -> None:
    assert labels_of(pa.table({"late": values}), "late").tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0, 1, None], "'late' is null in 1 rows .first .2."),
        ([0.0, math.nan, 1.0], "'late' is null in 1 rows"),
        ([0, 1, 2], "'late' is 2 in row 2"),
        ([0.5, 0, 1], "'late' is 0.5 in row 0"),
        (["0", "1", "1"], "'late' is string"),
    ],
)
def test_a_label_that_is_not_0_or_1_is_refused_by_name(values: list[object], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        labels_of(pa.table({"late": values}), "late")


def test_absent_columns_are_named() -> None:
    with pytest.raises(InvalidInput, match="label column 'late' is absent"):
        labels_of(pa.table({"x": [1]}), "late")
    with pytest.raises(InvalidInput, match="time column 'at' is absent"):
        times_of(pa.table({"x": [1]}), "at")


def test_the_last_seconds_are_held_out() -> None:
    times = np.array([0, 5_000_000, 10_000_000, 8_000_001])
    parts = split(times, cut_before_end(times, 2.0))
    assert parts.cut_us == 8_000_001
    assert parts.learn.tolist() == [0, 1]
    assert parts.held_out.tolist() == [2, 3]


@pytest.mark.parametrize(("cut", "says"), [(0, "to learn from"), (99, "held out")])
def test_a_split_without_rows_on_one_side_is_refused(cut: int, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_split(split(np.array([1, 2, 3]), cut), np.array([0.0, 1.0, 0.0]), "late")


def test_a_constant_label_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="'late' is 1 in all 2 rows"):
        check_split(split(np.array([1, 2, 3]), 3), np.array([1.0, 1.0, 0.0]), "late")
