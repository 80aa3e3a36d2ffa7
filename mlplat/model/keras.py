"""A Keras model as a torch module, where Keras runs on torch. Imports torch; Keras itself is there already wherever such a
model is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model.shape import Shape


def wrapped(network: object, shape: Shape) -> object:
    """A Keras model of what `shape` says, as a module like any other; anything else as it is. `InvalidInput` for a model
    whose weights torch could not follow."""
    keras: Any = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "Model"):  # somebody's namesake
        return network
    if not isinstance(network, keras.Model):
        if isinstance(network, nn.Module) and any(isinstance(part, keras.Layer) for part in network.modules()):
            raise InvalidInput("the network is a torch module with Keras layers in it: make all of it a keras.Model")
        return network
    if keras.config.backend() != "torch":
        raise InvalidInput(
            f"Keras runs on {keras.config.backend()!r} here, and a network runs on torch: set KERAS_BACKEND=torch in "
            "the environment before keras is imported"
        )
    if any(isinstance(layer, keras.layers.TorchModuleWrapper) for layer in network._flatten_layers()):
        raise InvalidInput("the network is a keras.Model with torch modules in it: make all of it a torch.nn.Module")
    return KerasNetwork(network, shape)


class KerasNetwork(nn.Module):  # type: ignore[misc]
    """Holds the values of the model's variables, and has the model compute with them: it never reads its own.

    So a copy of the module is one, gradients and shares of workers are this module's, and torch.export finds weights where
    there are weights. They go by their place in the model: Keras's names depend on what the process made before.
    """

    def __init__(self, model: Any, shape: Shape) -> None:
        super().__init__()
        self.made_of = type(model)
        self._inputs = _inputs(model, shape)
        if not model.built:
            _build(model, self._inputs, shape)
        # A function, so that the model is no part of this module, and not copied with it.
        self._answer = _stateless(model)
        self.learnt = nn.ParameterList(nn.Parameter(_value(variable)) for variable in model.trainable_variables)
        self.state = nn.Module()  # running means, the states of random generators
        for place, variable in enumerate(model.non_trainable_variables):
            self.state.register_buffer(str(place), _value(variable))

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        state = list(self.state.buffers())
        inputs = self._inputs(numeric, codes)
        out, after = self._answer(inputs, [*self.learnt, *state], training=self.training, device=str(numeric.device))
        if self.training:
            with torch.no_grad():
                for old, new in zip(state, after, strict=True):
                    old.copy_(new)
        return out


def _inputs(model: Any, shape: Shape) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """What the model takes of the two: both, or the one that has columns."""
    declared = getattr(model, "inputs", None)  # of a model that is no graph of layers it is not known
    both = len(declared) == 2 if declared else bool(shape.slots)
    if both:
        return lambda numeric, codes: [numeric, codes]
    return (lambda numeric, codes: numeric) if shape.numbers else (lambda numeric, codes: codes)


def _build(model: Any, inputs: Callable[..., Any], shape: Shape) -> None:
    """Some models make their weights when they first answer."""
    numeric, codes = torch.zeros(2, shape.numbers), torch.zeros(2, len(shape.slots), dtype=torch.int64)
    try:
        with torch.no_grad(), sys.modules["keras"].device("cpu"):
            model(inputs(numeric, codes), training=False)
    except Exception as error:
        raise UserCodeError(f"{model.name!r} cannot answer {shape}: {type(error).__name__}: {error}") from error


def _value(variable: Any) -> torch.Tensor:
    value: torch.Tensor = variable.value
    return value.detach().cpu().clone()


def _stateless(model: Any) -> Callable[..., tuple[torch.Tensor, Sequence[torch.Tensor]]]:
    """The model's answer with these values of its variables, and the values that those which are not learnt have then."""
    keras: Any = sys.modules["keras"]
    fixed = model.non_trainable_variables
    variables = [*model.trainable_variables, *fixed]

    def answer(
        inputs: Any, values: Sequence[torch.Tensor], *, training: bool, device: str
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        pairs = list(zip(variables, values, strict=True))
        with keras.device(device), keras.StatelessScope(state_mapping=pairs) as scope:
            out = model(inputs, training=training)
            return out, [scope.get_current_value(variable) for variable in fixed]

    return answer
