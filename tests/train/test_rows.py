"""Labels are checked before anything is learnt, and the split is by time alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlplat.errors import InvalidInput
from mlplat.model.task import Task
from mlplat.train.rows import check_split, cut_before_end, encoded_labels, split, task_of, times_of

BINARY = Task(kind="binary")


@pytest.mark.parametrize("values", [[0, 1, 1], [0.0, 1.0, 1.0], [False, True, True]])
def test_numbers_and_booleans_are_labels(values: list[object]) -> None:
    assert encoded_labels(pa.table({"late": values}), "late", BINARY).tolist() == [0, 1, 1]


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
        encoded_labels(pa.table({"late": values}), "late", BINARY)


@pytest.mark.parametrize("values", [["b", "a", "c", "a"], [20, 10, 30, 10]])
def test_classes_are_those_of_the_label_in_their_order(values: list[Any]) -> None:
    table = pa.table({"kind": values})
    task = task_of(table, "kind", "multiclass")
    assert task.classes == tuple(sorted(set(values)))
    assert encoded_labels(table, "kind", task).tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize(
    ("values", "kind", "says"),
    [
        ([0.5, 1.0], "multiclass", "'y' is double; classes are texts or integers"),
        (["a", "a"], "multiclass", "'y' is 'a' in all rows"),
        (["a", None], "multiclass", "'y' is null in 1 rows"),
        ([1.0, math.inf], "regression", "'y' is inf in row 1; it must hold finite numbers"),
        (["1", "2"], "regression", "'y' is string; it must hold numbers"),
        ([1, 2], "binary", "'y' is 2 in row 1"),
    ],
)
def test_a_label_that_is_not_of_its_task_is_refused_by_name(values: list[Any], kind: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        task_of(pa.table({"y": values}), "y", kind)


def test_any_finite_number_can_be_a_value() -> None:
    table = pa.table({"y": [1.5, -2.0]})
    assert encoded_labels(table, "y", task_of(table, "y", "regression")).tolist() == [1.5, -2.0]


def test_absent_columns_are_named() -> None:
    with pytest.raises(InvalidInput, match="label column 'late' is absent"):
        encoded_labels(pa.table({"x": [1]}), "late", BINARY)
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
        check_split(split(np.array([1, 2, 3]), cut), pa.table({"late": [0, 1, 0]}), "late")


def test_a_constant_label_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="'late' is 1 in all 2 rows"):
        check_split(split(np.array([1, 2, 3]), 3), pa.table({"late": [1, 1, 0]}), "late")
