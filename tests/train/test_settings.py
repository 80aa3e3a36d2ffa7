"""Settings that cannot be right are refused by name."""

from __future__ import annotations

import math

import pytest

from mlplat.errors import InvalidInput
from mlplat.train.settings import Recovery, TrainSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "mse"),
        ("precision", "float16"),
        ("parallel", "tp"),
        ("accumulate", 0),
        ("recovery", None),
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


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("share", 0.0), ("share", 1.0), ("failures", -1), ("failures", 1.5)]
)
def test_a_wrong_recovery_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=f"recovery: {name}"):
        Recovery(**{name: value})  # type: ignore[arg-type]


def test_recovery_is_recorded_and_is_no_part_of_what_the_weights_depend_on() -> None:
    settings = TrainSettings(recovery=Recovery(steps=7))
    assert settings.to_json()["recovery"]["steps"] == 7
    assert settings.science() == TrainSettings().science()
