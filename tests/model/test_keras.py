"""Keras models as torch modules: their weights, their state, what is kept of them, and what cannot be."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model import BINARY, Exported, Model, Shape
from mlplat.model.artifact import Golden, save
from mlplat.model.build import load_weights, made, read_weights
from mlplat.model.export import export, record
from tests.model.support import encoding_of, rows_of, signature_of

pytestmark = pytest.mark.slow  # Keras takes seconds to import, torch.export to start

SHAPE = Shape(numbers=3, slots=(4, 9), outputs=1)
ENCODING = encoding_of(3, (4, 9))
NUMERIC, CODES = torch.linspace(-1, 1, 24).reshape(8, 3), torch.arange(16).reshape(8, 2) % 4


@pytest.fixture
def keras(keras_networks: ModuleType) -> Any:
    import keras

    return keras


def test_weights_go_by_their_place_whatever_was_made_before(keras_networks: ModuleType) -> None:
    first, second = (made(keras_networks.embedded, SHAPE) for _ in range(2))
    names = [name for name, _ in first.named_parameters()]
    assert names == [f"learnt.{i}" for i in range(len(names))] == [name for name, _ in second.named_parameters()]
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first.eval()(NUMERIC, CODES), second.eval()(NUMERIC, CODES))


def test_training_changes_the_state_and_an_answer_does_not(keras_networks: ModuleType) -> None:
    module = made(keras_networks.embedded, SHAPE)
    kept, before = read_weights(module.eval()), module(NUMERIC, CODES)
    assert torch.equal(module(NUMERIC, CODES), before)
    assert all((value == kept[name]).all() for name, value in read_weights(module).items())
    module.train()(NUMERIC, CODES).sum().backward()
    assert all(weight.grad is not None for weight in module.parameters())
    changed = {name for name, value in read_weights(module).items() if (value != kept[name]).any()}
    # Both running means and two of the generators: dropout without a seed draws of torch's.
    assert changed == {"state.0", "state.1", "state.2", "state.4"}


def test_a_copy_shares_nothing_with_its_model(keras_networks: ModuleType) -> None:
    module = made(keras_networks.Subclassed, SHAPE).eval()
    other, wanted = copy.deepcopy(module), module(NUMERIC, CODES)
    load_weights(other, {name: value + 1 for name, value in read_weights(other).items()})
    assert torch.equal(module(NUMERIC, CODES), wanted)
    assert not torch.equal(other(NUMERIC, CODES), wanted)


@pytest.mark.parametrize(("network", "slots"), [("embedded", (4, 9)), ("plain", ()), ("Subclassed", (4,))])
def test_it_is_kept_as_a_program_whose_weights_are_weights(
    keras_networks: ModuleType, network: str, slots: tuple[int, ...]
) -> None:
    encoding = encoding_of(3, slots)
    module = made(getattr(keras_networks, network), Shape.of(encoding, 1))
    found = export(module, encoding)
    program = json.loads(found.program)
    assert program["constants"] == {}
    read = {step[1][i]["weight"] for step in program["steps"] for i in range(len(step[1])) if _weight(step[1][i])}
    assert {name for name, _ in module.named_parameters()} <= read
    assert "KerasNetwork" not in found.module


def _weight(argument: Any) -> bool:
    return isinstance(argument, dict) and "weight" in argument


WITHOUT = """
import sys
from pathlib import Path
sys.modules["keras"] = None
from mlplat.model.artifact import load
found = load(Path(sys.argv[1]))
assert found.golden.difference(found.model) == 0.0
assert not any(name.startswith("tests") for name in sys.modules)
"""


def test_its_program_answers_where_there_is_neither_keras_nor_its_code(
    keras_networks: ModuleType, tmp_path: Path
) -> None:
    module = made(keras_networks.embedded, SHAPE)
    model = _model(export(module, ENCODING), module)
    path = save(model, tmp_path, golden=Golden.of(model, rows_of(ENCODING, 6)))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("network", ["embedded", "Subclassed"])
def test_it_is_kept_as_its_code(keras_networks: ModuleType, network: str) -> None:
    make = getattr(keras_networks, network)
    module = made(make, SHAPE)
    columns = rows_of(ENCODING, 6)
    found = _model(record(make, module, ENCODING), module).predict(columns)["probability"]
    wanted = _model(export(module, ENCODING), module).predict(columns)["probability"]
    assert abs(found - wanted).max() <= 1e-6


def _model(network: Any, module: nn.Module) -> Model:
    assert isinstance(network, Exported) or network.code
    return Model(
        network=network,
        weights=read_weights(module),
        encoding=ENCODING,
        signature=signature_of(ENCODING, BINARY),
    )


def test_a_model_that_takes_other_inputs_is_refused_with_what_keras_says(keras_networks: ModuleType) -> None:
    with pytest.raises(UserCodeError, match=r"(?s)'sequential.*' cannot answer Shape\(.*expects 1 input"):
        made(keras_networks.plain, SHAPE)


def test_a_mixture_of_keras_and_torch_is_refused(keras: Any) -> None:
    def inside(shape: Shape) -> nn.Module:
        return nn.Sequential(keras.layers.Dense(1))

    def around(shape: Shape) -> Any:
        return keras.Sequential([keras.layers.TorchModuleWrapper(nn.Linear(3, 1))])

    with pytest.raises(InvalidInput, match=r"torch module with Keras layers in it: make all of it a keras\.Model"):
        made(inside, SHAPE)
    with pytest.raises(InvalidInput, match=r"with torch modules in it: make all of it a torch\.nn\.Module"):
        made(around, SHAPE)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"the network gave int, and not a torch\.nn\.Module"):
        made(lambda shape: 3, SHAPE)


def test_keras_on_another_backend_is_refused(
    keras: Any, keras_networks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(InvalidInput, match=r"Keras runs on 'jax' here, .*: set KERAS_BACKEND=torch in the environment"):
        made(keras_networks.embedded, SHAPE)
