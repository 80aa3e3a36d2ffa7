"""What no model may do, each done by one; and inputs that tell too much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlplat.errors import InvalidInput
from mlplat.model.signature import Field, Signature
from mlplat.model.task import BINARY, Task
from mlplat.testing.clock import ManualClock
from mlplat.train import probes

FIELDS = (Field(name="x", dtype="float64"), Field(name="n", dtype="int64"), Field(name="c", dtype="string"))
TABLE = pa.table({"x": np.linspace(-1, 1, 100), "n": np.arange(100), "c": ["a", "b"] * 50})


@dataclass
class Scripted:
    """A model that answers with what a function makes of its columns."""

    answer: Callable[[Mapping[str, list[Any]]], Any]
    task: Task = BINARY

    @property
    def signature(self) -> Signature:
        return Signature(entities=(), request=FIELDS, features=(), outputs=self.task.fields())

    def predict(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        return {self.task.fields()[0].name: np.array(self.answer(columns), dtype=float)}


def sound(columns: Mapping[str, list[Any]]) -> list[float]:
    return [0.5 if x is None else 1 / (1 + np.exp(-min(max(x, -9), 9))) for x in columns["x"]]


def found(answer: Callable[[Mapping[str, list[Any]]], Any], task: Task = BINARY) -> dict[str, str | None]:
    return {p.test: p.problem for p in probes.robustness(Scripted(answer, task), TABLE)}  # type: ignore[arg-type]


def refusing(columns: Mapping[str, list[Any]]) -> list[float]:
    if "b" not in columns["c"] and "a" not in columns["c"] and None not in columns["c"]:
        raise InvalidInput("'c' has a value that is not known")
    return sound(columns)


def test_a_sound_model_passes_all() -> None:
    assert set(found(sound).values()) == {None}


@pytest.mark.parametrize(
    ("answer", "test", "says"),
    [
        (lambda c: [float("nan") if x is None else 0.5 for x in c["x"]], "nulls", "all inputs null: 64 answers are not finite"),
        (lambda c: [float("nan") if n is None and x is not None else 0.5 for n, x in zip(c["n"], c["x"], strict=True)],
         "nulls", "'n' null: 64 answers"),
        (refusing, "unseen categories", "'c' has a value that is not known"),
        (lambda c: [0.5 if x is None else 0.5 + 0.1 * x for x in c["x"]], "out of range", "a probability is outside 0..1"),
        (lambda c: [1 / (i + 2) for i in range(len(c["x"]))], "batches", "in another order"),
        (lambda c: [len(c["x"]) / 100] * len(c["x"]), "batches", "in a batch of one"),
        (lambda c: [0.5 if x is None else 1 / x if abs(x) > 1e9 and 1 // 0 else 0.5 for x in c["x"]],
         "out of range", "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_what_no_model_may_do_is_found(answer: Any, test: str, says: str) -> None:
    assert says in str(found(answer)[test])


def test_a_value_may_be_any_finite_number() -> None:
    assert set(found(lambda c: [0.0 if x is None else x for x in c["x"]], Task(kind="regression")).values()) == {None}


def test_an_input_that_is_the_label_is_found_in_every_task() -> None:
    random = np.random.default_rng(0)
    value, noise = random.normal(size=400), random.normal(size=400)
    text = np.where(value > 0, "high", "low")
    table = pa.table({"x": pa.array(value), "n": pa.array(random.integers(0, 9, 400)), "c": pa.array(text)})
    tasks = {
        BINARY: (value > 0).astype(float),
        Task(kind="multiclass", classes=("a", "b", "c")): np.digitize(value, [-0.5, 0.5]).astype(float),
        Task(kind="regression"): 3 * value,
    }
    for task, labels in tasks.items():
        told = dict(probes.leaks(table, labels, task, FIELDS))
        assert told["x"] > 0.999
        assert told["n"] < 0.7
        assert next(iter(told)) in {"x", "c"}
    told = dict(probes.leaks(table, (noise > 0).astype(float), BINARY, FIELDS))
    assert max(told.values()) < 0.6


def test_a_text_that_names_its_row_tells_nothing() -> None:
    labels = np.array([0.0, 1.0] * 100)
    table = pa.table({"c": [str(i) for i in range(200)]})
    assert probes.leaks(table, labels, BINARY, FIELDS[2:]) == [("c", 0.5)]


def test_latency_is_by_the_clock() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))

    def slow(columns: Mapping[str, list[Any]]) -> list[float]:
        clock.advance(timedelta(milliseconds=3))
        return sound(columns)

    assert probes.latency_ms(Scripted(slow), TABLE, clock) == pytest.approx(3.0)  # type: ignore[arg-type]
