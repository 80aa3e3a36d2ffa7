"""From a network's numbers to answers, against plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.model.task import BINARY, Task

numbers = st.floats(-1e4, 1e4)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_a_binary_answer_is_the_logistic_function(raw: list[float]) -> None:
    found = BINARY.answers(BINARY.predictions(np.array(raw)[:, None]))
    slow = [1 / (1 + math.exp(-x)) if x > -700 else 0.0 for x in raw]
    assert found.keys() == {"probability"}
    assert found["probability"] == pytest.approx(slow, abs=1e-12)


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_class_is_the_most_probable_one(raw: list[list[float]]) -> None:
    task = Task(kind="multiclass", classes=("x", "y", "z"))
    found = task.answers(task.predictions(np.array(raw)))
    for i, row in enumerate(raw):
        odds = [math.exp(x - max(row)) for x in row]
        shares = [found[f"probability.{c}"][i] for c in task.classes]
        assert found["class"][i] == task.classes[shares.index(max(shares))]
        assert [found[f"probability.{c}"][i] for c in task.classes] == pytest.approx([o / sum(odds) for o in odds])


def test_a_value_is_the_number_itself_and_each_task_names_its_fields() -> None:
    assert Task(kind="regression").answers(np.array([2.5, -1.0]))["value"].tolist() == [2.5, -1.0]
    integers = Task(kind="multiclass", classes=(3, 1))
    assert [(f.name, f.dtype) for f in integers.fields()] == [
        ("class", "int64"), ("probability.3", "float64"), ("probability.1", "float64")
    ]  # fmt: skip
    for task in (BINARY, Task(kind="regression"), integers):
        assert Task.from_json(task.to_json()) == task
        assert task.answers(task.predictions(np.empty((0, task.outputs)))).keys() == {f.name for f in task.fields()}


@pytest.mark.parametrize("classes", [(), ("a",), ("a", "a"), ("a", 1), ("a", "b", "a"), (True, False), (0.5, 1.5)])
def test_classes_that_are_none_are_refused(classes: Any) -> None:
    with pytest.raises(InvalidInput, match="two or more different texts, or integers"):
        Task(kind="multiclass", classes=classes)
    if classes:
        with pytest.raises(InvalidInput, match="'binary' has no classes"):
            Task(kind="binary", classes=classes)


def test_an_unknown_kind_and_a_network_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'ranking' is not one of binary, multiclass, regression"):
        Task(kind="ranking")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"gives \(4, 2\), and a binary task needs \(rows, 1\)"):
        BINARY.predictions(np.zeros((4, 2)))
