"""Networks as code: what travels, and what cannot."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model import Recorded, Shape
from mlplat.model.export import record
from tests.model.networks import Branching, Gated, Linear, OnlyFive, make_linear
from tests.model.support import encoding_of

SHAPE = Shape(numbers=3, slots=(), outputs=2)


@pytest.mark.slow
@pytest.mark.parametrize("network", [Branching, make_linear])
def test_the_text_makes_the_network_with_all_that_its_module_gives_it(network: Any) -> None:
    recorded = Recorded.of(network)
    assert recorded == Recorded.from_json(json.loads(json.dumps(recorded.to_json())))
    assert hash(recorded) == hash(Recorded.of(network))
    made, wanted = recorded.make(SHAPE), network(SHAPE)
    made.load_state_dict(wanted.state_dict())
    numeric, codes = torch.randn(4, 3), torch.zeros((4, 0), dtype=torch.int64)
    assert torch.equal(made(numeric, codes), wanted(numeric, codes))
    assert type(made) is not type(wanted)


@pytest.mark.slow
def test_arguments_travel_as_json() -> None:
    recorded = Recorded.of(partial(Gated, width=5))
    assert recorded.arguments == '{"width":5}'
    assert recorded.make(SHAPE).last.in_features == 5
    with pytest.raises(InvalidInput, match="arguments of 'Gated' cannot be recorded"):
        Recorded.of(partial(Gated, width=torch.nn.ReLU()))
    with pytest.raises(InvalidInput, match="by name"):
        Recorded.of(partial(Gated, SHAPE))


def test_code_that_its_text_alone_cannot_make_is_refused() -> None:
    width = len("local")

    def local(shape: Shape) -> nn.Module:
        return nn.Linear(width, shape.outputs)

    with pytest.raises(InvalidInput, match="'local' uses a name that its module alone cannot give"):
        Recorded.of(local)
    with pytest.raises(InvalidInput, match="no class and no function"):
        Recorded.of(Linear(SHAPE))


def test_code_that_raises_says_whose_it_is() -> None:
    with pytest.raises(UserCodeError, match=r"network 'Nowhere': its code does not run in this process: .*nowhere"):
        Recorded(name="Nowhere", code="import nowhere", arguments="{}").make(SHAPE)
    with pytest.raises(UserCodeError, match=r"network 'Gated': making it of Shape.* raised TypeError: .*'depth'"):
        Recorded(name="Gated", code=Recorded.of(Gated).code, arguments='{"depth":3}').make(SHAPE)


def test_a_module_is_recorded_if_its_code_makes_one_that_answers_the_same() -> None:
    encoding = encoding_of(3)
    module = Branching(SHAPE)
    assert record(Branching, module, encoding).name == "Branching"
    assert module.training
    with pytest.raises(InvalidInput, match="otherwise than its module does"):
        record(Linear, module, encoding)
    with pytest.raises(InvalidInput, match="makes a network of other weights"):
        record(Gated, module, encoding)


def test_a_module_that_cannot_answer_is_refused_with_its_line() -> None:
    with pytest.raises(UserCodeError, match=r"OnlyFive cannot answer 1 rows line \d+ of .*networks.py, `return"):
        record(OnlyFive, OnlyFive(SHAPE), encoding_of(3))
