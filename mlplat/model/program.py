"""An exported network at work: a list of steps, each a call of one of torch's own operators. Imports torch.

    {"weights":   {name: [dtype, shape]},          of the module's state_dict
     "constants": {name: [dtype, shape, base64]},  tensors that the code holds
     "steps":     [[operator, arguments, keywords], ...],
     "output":    value}

An argument is plain JSON, or a value by what it is: {"weight": name}, {"constant": name}, {"input": "numeric" | "codes"},
{"step": n}, {"dtype": name}, {"layout": name}, {"memory_format": name}, {"device": "cpu"}, {"float": "inf" | "-inf" | "nan"}.
"""

from __future__ import annotations

import base64
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlplat.errors import InvalidInput

Array = np.ndarray[Any, Any]

ON_NUMBERS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem")},
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "sym_max": max,
    "sym_min": min,
}
"""What code does with sizes, and to take one of an operator's several results."""
_OPERATOR = re.compile(r"aten\.(\w+)\.(\w+)")
_INTERNAL = frozenset({"_native_batch_norm_legit_no_training", "_to_copy", "_unsafe_view", "_weight_norm"})
_RETURNS = frozenset({"Tensor", "List[Tensor]", "int", "float", "bool", "number", "SymInt"})
_NAMED: Mapping[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


class Program:
    """Call it with numeric float32 [n, k] and codes int64 [n, c]: it gives [n, outputs]. Threads may share it: no step
    changes what another reads.

    `InvalidInput` for a program that is none or that would do anything but compute, and for weights that are not its own.
    """

    def __init__(self, text: str, weights: Mapping[str, Array]) -> None:
        try:
            spec = json.loads(text)
            _check_weights(spec["weights"], weights)
            fixed = {("weight", name): torch.from_numpy(np.array(value)) for name, value in weights.items()}
            fixed |= {("constant", name): _constant(*value) for name, value in spec["constants"].items()}
            self._fixed = list(fixed.values())
            places: dict[tuple[str, Any], int] = {key: at for at, key in enumerate(fixed)}
            places |= {("input", name): len(fixed) + at for at, name in enumerate(("numeric", "codes"))}
            self._steps = _steps(spec["steps"], places)
            self._output = places[_only(spec["output"])]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InvalidInput(f"the program of the network cannot be read: {type(error).__name__}: {error}") from error
        _forget(self._steps, keep=self._output)

    def __call__(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        values = [*self._fixed, numeric, codes, *([None] * len(self._steps))]
        for step in self._steps:
            values[step.place] = step.call(
                *_filled(step.arguments, values), **{name: _filled(v, values) for name, v in step.keywords.items()}
            )
            for place in step.last:  # many rows would else fill the memory with what nobody reads again
                values[place] = None
        return values[self._output]


def operator_of(name: str) -> Callable[..., Any]:
    """`InvalidInput` unless it is an operator that computes tensors or sizes of its arguments, and changes nothing."""
    if name in ON_NUMBERS:
        return ON_NUMBERS[name]
    found: Any = None
    match = _OPERATOR.fullmatch(name)
    if match and (not name.startswith("aten._") or match[1] in _INTERNAL):
        found = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(found, torch._ops.OpOverload) or not _computes(found._schema):
        raise InvalidInput(f"{name!r} is not an operator that a program may call")
    call: Callable[..., Any] = found
    return call


@dataclass(slots=True, kw_only=True)
class _Step:
    call: Callable[..., Any]
    arguments: list[Any]
    keywords: dict[str, Any]
    place: int
    last: list[int]


@dataclass(frozen=True, slots=True)
class _Value:
    """A place among the values of a run."""

    place: int


def _computes(schema: Any) -> bool:
    reads_a_file = any(argument.name == "filename" for argument in schema.arguments)
    returns = {str(returned.type) for returned in schema.returns}
    return not schema.is_mutable and not reads_a_file and bool(returns) and returns <= _RETURNS


def _steps(specs: list[Any], places: dict[tuple[str, Any], int]) -> list[_Step]:
    """Adds the places of the steps: a step knows only those before it."""
    steps = []
    for at, (name, arguments, keywords) in enumerate(specs):
        place = len(places)
        steps.append(
            _Step(
                call=operator_of(name),
                arguments=[_argument(value, places) for value in arguments],
                keywords={key: _argument(value, places) for key, value in keywords.items()},
                place=place,
                last=[],
            )
        )
        places["step", at] = place
    return steps


def _argument(value: Any, places: Mapping[tuple[str, Any], int]) -> Any:
    if isinstance(value, list):
        return [_argument(item, places) for item in value]
    if not isinstance(value, dict):
        return value
    kind, what = _only(value)
    if kind in _NAMED:
        found = getattr(torch, what)
        if not isinstance(found, _NAMED[kind]):
            raise ValueError(f"{what!r} is no {kind}")
        return found
    if kind == "float":
        return float(what)
    if kind == "device":
        if what != "cpu":
            raise ValueError(f"device {what!r}: a program runs on the CPU")
        return torch.device(what)
    return _Value(places[kind, what])


def _only(value: Mapping[str, Any]) -> tuple[str, Any]:
    ((kind, what),) = value.items()
    return kind, what


def _filled(value: Any, values: list[Any]) -> Any:
    if type(value) is _Value:
        return values[value.place]
    if type(value) is list:
        return [_filled(item, values) for item in value]
    return value


def _forget(steps: list[_Step], *, keep: int) -> None:
    """Say at each step which values no later one reads."""
    read = {keep}
    for step in reversed(steps):
        mine = set(_read([step.arguments, *step.keywords.values()])) | {step.place}
        step.last = sorted(mine - read)
        read |= mine


def _read(value: Any) -> list[int]:
    if isinstance(value, list):
        return [place for item in value for place in _read(item)]
    return [value.place] if isinstance(value, _Value) else []


def _check_weights(wanted: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
    found = {name: [value.dtype.name, list(value.shape)] for name, value in weights.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise InvalidInput(
                f"the weights do not fit the program: {name!r} is {found.get(name)}, and should be {wanted.get(name)}"
            )


def _constant(dtype: str, shape: list[int], data: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(data), dtype=dtype).reshape(shape).copy())
