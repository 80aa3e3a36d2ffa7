"""Settings that cannot be right are refused by name."""

from __future__ import annotations

import math

import pytest

from mlplat.errors import InvalidInput
from mlplat.train.settings import TrainSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "mse"),
        ("schedule", "step"),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("weight_decay", -1e-9),
        ("batch_size", 1),
        ("batch_size", 64.0),
        ("epochs", 0),
        ("epochs", True),
        ("patience", 0),
        ("seed", -1),
        ("holdout_s", 0),
        ("holdout_s", math.inf),
    ],
)
def test_a_wrong_setting_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=name):
        TrainSettings(**{name: value})  # type: ignore[arg-type]


def test_two_weeks_are_held_out_unless_told_otherwise() -> None:
    assert TrainSettings().holdout_s == 14 * 86_400
