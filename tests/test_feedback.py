"""What served rows and their outcomes make: losses of every task, and labels to train on."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlplat.feedback import losses_of
from mlplat.model.task import BINARY, Task
from mlplat.serve.live import labelled
from tests.features.support import open_store

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("classes", [("high", "low", "none"), (3, 1, 2)])
def test_the_loss_of_a_class_is_what_its_own_version_thought_of_it(classes: tuple[Any, ...]) -> None:
    """Row by row: the first version knows two of the classes, the second all three; and one outcome is known to none."""
    random = np.random.default_rng(0)
    task = Task(kind="multiclass", classes=classes)
    one = pl.DataFrame({f"output.probability.{c}": random.random(40) for c in classes[:2]})
    other = pl.DataFrame({f"output.probability.{c}": random.random(40) for c in classes})
    values = pl.Series(random.choice(list(classes), 80).tolist())
    stored = (values if values.dtype == pl.String else values.cast(pl.Float64)).to_numpy().copy()
    stored[7] = "new" if isinstance(classes[0], str) else 9.0
    rows = pl.concat([one, other], how="diagonal")
    expected = []
    for i, value in enumerate(stored):
        known = rows.row(i, named=True).get(f"output.probability.{value if isinstance(value, str) else int(value)}")
        expected.append(-math.log(max(known or 0.0, 1e-15)))
    found = losses_of(task)(rows, stored)
    assert found.argsort(kind="stable").tolist() == np.argsort(expected, kind="stable").tolist()
    likely = np.array(expected) < 20
    assert found[likely] == pytest.approx(np.array(expected)[likely])
    assert losses_of(task)(one, stored[:40]) == pytest.approx(found[:40])


def test_the_losses_of_probabilities_and_of_numbers() -> None:
    rows, values = pl.DataFrame({"output.probability": [0.9, 0.2], "output.value": [1.0, 4.0]}), np.array([1.0, 0.0])
    assert losses_of(BINARY)(rows, values) == pytest.approx([-math.log(0.9), -math.log(0.8)])
    assert losses_of(Task(kind="regression"))(rows, values) == pytest.approx([0.0, 16.0])


def test_labels_are_what_was_asked_with_what_came_of_it(tmp_path: Path) -> None:
    features = open_store(tmp_path)
    trained_on = pl.DataFrame(
        {"shop": ["s0"], "sold_at": [START], "size": [1.0], "model": ["a"], "colour": ["red"], "sold": [True]}
    )
    data = features.training_set("sold", trained_on, [], label="sold", time="sold_at")
    log = pl.DataFrame(
        {
            "prediction_id": ["p0", "p1", "p2", "p3"],
            "at": [START + timedelta(hours=h) for h in (3, 2, 1, 0)],
            "shadow": [False, None, True, False],
            "model": ["sold"] * 4,
            "request.model": ["b", "c", "d", "e"],
            "shop": ["s1", "s2", "s3", "s4"],
            "size": [1, 2, 3, 4],
        }
    )
    outcomes = pl.DataFrame({"prediction_id": ["p2", "p0", "p1", "gone"], "value": [1.0, 1.0, 0.0, 1.0]})
    found = labelled(log, outcomes, data)
    assert found.schema == pl.DataFrame(data.table()).schema
    assert found.select("shop", "size", "model", "colour", "sold").rows() == [
        ("s2", 2.0, "c", None, False),
        ("s1", 1.0, "b", None, True),
    ]
    assert found["sold_at"].to_list() == [START + timedelta(hours=2), START + timedelta(hours=3)]
    none = labelled(pl.DataFrame(), outcomes, data)
    assert (none.height, none.schema) == (0, found.schema)
    features.close()
