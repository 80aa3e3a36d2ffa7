"""From the graph that `torch.export` made of a module to a program. Imports torch."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from mlplat.errors import InvalidInput
from mlplat.model.program import ON_NUMBERS, operator_of

Array = np.ndarray[Any, Any]

REMEDY = 'write it without a branch on data, or keep its code beside the weights: platform.train(..., keep="code")'
_ON_NUMBERS = {call: name for name, call in ON_NUMBERS.items()} | {torch.sym_max: "sym_max", torch.sym_min: "sym_min"}
_NAMED = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format", torch.device: "device"}


def program_of(traced: torch.export.ExportedProgram, weights: Mapping[str, Array]) -> dict[str, Any]:
    """In the form that `mlplat.model.program` runs. `InvalidInput` if the code does what a program cannot: change the module,
    call something else than torch's own operators, hold something else than tensors."""
    signature = traced.graph_signature
    for output in signature.output_specs:
        if output.kind is not OutputKind.USER_OUTPUT:
            raise InvalidInput(f"the forward changes {output.target!r}: a model must not change as it answers")
    graph = traced.graph
    for node in reversed(graph.nodes):
        if str(node.target).startswith("aten._assert"):  # torch's own record of what it found out about sizes
            graph.erase_node(node)
    graph.eliminate_dead_code()
    values, constants = _given(traced)
    steps: list[Any] = []
    for node in graph.nodes:
        if node.op == "call_function":
            name = _operator(node)
            arguments = [_argument(value, values) for value in node.args]
            keywords = {key: _argument(value, values) for key, value in node.kwargs.items()}
            steps.append([name, arguments, keywords])
            values[node] = {"step": len(steps) - 1}
    (output,) = (node.args[0] for node in graph.nodes if node.op == "output")
    return {
        "weights": {name: [value.dtype.name, list(value.shape)] for name, value in weights.items()},
        "constants": constants,
        "steps": steps,
        "output": values[output[0]],
    }


def _given(traced: torch.export.ExportedProgram) -> tuple[dict[fx.Node, Any], dict[str, Any]]:
    """What the graph begins with, by node: weights, constants, inputs; and the constants themselves."""
    values: dict[fx.Node, Any] = {}
    constants: dict[str, Any] = {}
    inputs = iter(("numeric", "codes"))
    nodes = [node for node in traced.graph.nodes if node.op == "placeholder"]
    for node, given in zip(nodes, traced.graph_signature.input_specs, strict=True):
        if given.kind is InputKind.USER_INPUT:
            values[node] = {"input": next(inputs)}
        elif given.target in traced.constants:
            constants[given.target] = _constant(traced.constants[given.target])
            values[node] = {"constant": given.target}
        else:
            values[node] = {"weight": given.target}
    return values, constants


def _constant(value: Any) -> list[Any]:
    if not isinstance(value, torch.Tensor):
        raise InvalidInput(f"the network holds a {type(value).__name__}, which no program can; {REMEDY}")
    array = value.detach().cpu().numpy()
    return [array.dtype.name, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def _operator(node: fx.Node) -> str:
    name: str = _ON_NUMBERS.get(node.target, str(node.target))
    try:
        operator_of(name)
    except InvalidInput as error:
        lines = str(node.meta.get("stack_trace") or "").strip().splitlines()
        raise InvalidInput(f"{error}; it comes from {' '.join(lines[-2:]).strip() or 'torch'}; {REMEDY}") from None
    return name


def _argument(value: Any, values: Mapping[fx.Node, Any]) -> Any:
    if isinstance(value, fx.Node):
        return values[value]
    if isinstance(value, list | tuple):
        return [_argument(item, values) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in _NAMED:
        return {_NAMED[type(value)]: str(value).removeprefix("torch.")}
    raise InvalidInput(f"an operator takes {value!r}, which no program can hold; {REMEDY}")
