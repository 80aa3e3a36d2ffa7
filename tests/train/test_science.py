"""What is recorded of the user's code changes when the code does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import nn

from mlplat.errors import InvalidInput
from mlplat.model import mlp
from mlplat.train.science import Science, spelled


def one(shape: object, width: int = 3) -> None: ...


def other(shape: object, width: int = 3) -> None: ...


def test_another_text_and_other_arguments_are_another_thing() -> None:
    assert spelled(one) == spelled(one)
    assert len({spelled(call) for call in (one, other, partial(one, width=4), partial(one, width=5))}) == 4
    assert spelled(len) == "builtins.len"


class Scaled:
    """A loss with a parameter."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, raw: object, labels: object) -> float:
        return self.by * FACTOR


FACTOR = 2.0


def closing_over(by: float) -> Callable[..., float]:
    def loss(raw: object, labels: object) -> float:
        return by

    return loss


@pytest.mark.slow
def test_what_code_closes_over_or_holds_or_uses_is_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (Scaled, closing_over, nn.HuberLoss, lambda by: lambda raw: by, lambda by: lambda raw, x=by: x):
        assert spelled(make(1.0)) == spelled(make(1.0))
        assert spelled(make(1.0)) != spelled(make(9.0))
    before = spelled(Scaled(1.0))
    monkeypatch.setattr(f"{__name__}.FACTOR", 3.0)
    assert spelled(Scaled(1.0)) != before


def test_every_part_that_was_given_is_said() -> None:
    said = Science(network=mlp((4,)), loss=one, metrics={"share": other}).spelled()
    assert said.keys() == {"network", "loss", "metric share"}
    assert Science(network=mlp((5,))).spelled() != Science(network=mlp((4,))).spelled()


def test_what_cannot_be_called_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="the network is 3"):
        Science(network=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="auc='auc'"):
        Science(network=mlp((4,)), metrics={"auc": "auc"})  # type: ignore[dict-item]
