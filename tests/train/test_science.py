"""What is recorded of the user's code changes when the code does."""

from __future__ import annotations

from functools import partial

import pytest

from mlplat.errors import InvalidInput
from mlplat.model import mlp
from mlplat.train.science import Science, spelled


def one(shape: object, width: int = 3) -> None: ...


def other(shape: object, width: int = 3) -> None: ...


def test_another_text_and_other_arguments_are_another_thing() -> None:
    assert spelled(one) == spelled(one)
    assert len({spelled(call) for call in (one, other, partial(one, width=4), partial(one, width=5))}) == 4
    assert spelled(len) == "builtins.len"


def test_every_part_that_was_given_is_said() -> None:
    said = Science(network=mlp((4,)), loss=one, metrics={"share": other}).spelled()
    assert said.keys() == {"network", "loss", "metric share"}
    assert Science(network=mlp((5,))).spelled() != Science(network=mlp((4,))).spelled()


def test_what_cannot_be_called_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="the network is 3"):
        Science(network=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="auc='auc'"):
        Science(network=mlp((4,)), metrics={"auc": "auc"})  # type: ignore[dict-item]
