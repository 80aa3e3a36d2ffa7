"""From a torch module of the user's own to a network that a model can keep: as a program, or as its code. Imports torch."""

from __future__ import annotations

import base64
import copy
import math
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model.build import load_weights, logits, read_weights
from mlplat.model.canonical import canonical
from mlplat.model.check import CHECKED_ROWS, check_same, sample
from mlplat.model.exported import Exported
from mlplat.model.inputs import InputEncoding
from mlplat.model.program import ON_NUMBERS, Program, operator_of
from mlplat.model.recorded import Recorded
from mlplat.model.shape import Shape

Array = np.ndarray[Any, Any]

SAMPLE_ROWS = 5
_REMEDY = "write it without a branch on data, or record its code beside the weights (mlplat.model.export.record)"
# Code that is no user's: this file, the standard library, and what is installed.
_NOT_THEIRS = (__file__, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<frozen")
_ON_NUMBERS = {call: name for name, call in ON_NUMBERS.items()} | {torch.sym_max: "sym_max", torch.sym_min: "sym_min"}
_NAMED = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format", torch.device: "device"}


def export(module: nn.Module, encoding: InputEncoding) -> Exported:
    """What `module.forward(numeric float32 [n, k], codes int64 [n, c]) -> [n, outputs]` computes when it evaluates, for any
    n. The module stays as it is; `read_weights(module)` are the weights.

    `InvalidInput` names the user's line that torch cannot follow and says what to do; so it does for a forward that changes
    the module or answers otherwise once exported. `UserCodeError` if the forward raises.
    """
    module = _evaluating(module)
    _check_runs(module, encoding)
    traced = _traced(module, encoding)
    weights = _weights(module)
    text = canonical(_program(traced, module, weights)).decode()
    check_same(Program(text, weights), module, encoding)
    return Exported(program=text, module=_name(module), torch=torch.__version__)


def record(network: Callable[..., nn.Module], module: nn.Module, encoding: InputEncoding) -> Recorded:
    """The code of `network`, a class or function that takes a `Shape`, of which `module` was made: for a forward that torch
    cannot follow. To load it is to run it, so that a stranger's is refused.

    `InvalidInput` if the text alone does not make a module that takes these weights and answers the same.
    """
    module = _evaluating(module)
    outputs = _check_runs(module, encoding)
    recorded = Recorded.of(network)
    try:
        made = load_weights(recorded.make(Shape.of(encoding, outputs)), _weights(module))
    except RuntimeError as error:
        raise InvalidInput(f"the code of {recorded.name!r} makes a network of other weights: {error}") from None
    check_same(made, module, encoding)
    return recorded


def _evaluating(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).cpu().eval()


def _weights(module: nn.Module) -> dict[str, Array]:
    try:
        return read_weights(module)
    except TypeError as error:
        raise InvalidInput(
            f"the weights of {_name(module)} cannot be kept: {error}. Keep them in 32 bits: module.float()"
        ) from None


def _check_runs(module: nn.Module, encoding: InputEncoding) -> int:
    """Numbers that it gives per row."""
    for rows in (SAMPLE_ROWS, *CHECKED_ROWS):
        try:
            found = logits(module, *sample(encoding, rows))
        except Exception as error:
            raise UserCodeError(
                f"{_name(module)} cannot answer {rows} rows{_where(error)}: {type(error).__name__}: {error}"
            ) from error
        if found.ndim != 2 or len(found) != rows:
            raise InvalidInput(f"{_name(module)} gives the shape {found.shape} for {rows} rows: return [n, outputs]")
    return int(found.shape[1])


def _traced(module: nn.Module, encoding: InputEncoding) -> torch.export.ExportedProgram:
    inputs = tuple(torch.from_numpy(part) for part in sample(encoding, SAMPLE_ROWS))
    rows = {0: torch.export.Dim("rows", min=1)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's to its own authors: on its deprecations, and on its own modules
            traced = torch.export.export(module, inputs, dynamic_shapes=(rows, rows), strict=False)
            return traced.run_decompositions({})  # so that no step changes a tensor that another step reads
    except Exception as error:
        what = _where(error) or f" the forward of {_name(module)}"
        fixed = "Constraints violated" in str(error)  # which torch finds out at the end, far from the line
        why = "what it does depends on the number of rows" if fixed else _first_line(error)
        raise InvalidInput(f"torch.export cannot follow{what}: {why}; {_REMEDY}") from error


def _program(traced: torch.export.ExportedProgram, module: nn.Module, weights: Mapping[str, Array]) -> dict[str, Any]:
    signature = traced.graph_signature
    for output in signature.output_specs:
        if output.kind is not OutputKind.USER_OUTPUT:
            raise InvalidInput(
                f"the forward of {_name(module)} changes {output.target!r}: a model must not change as it answers"
            )
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
        raise InvalidInput(f"the network holds a {type(value).__name__}, which no program can; {_REMEDY}")
    array = value.detach().cpu().numpy()
    return [array.dtype.name, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def _operator(node: fx.Node) -> str:
    name: str = _ON_NUMBERS.get(node.target, str(node.target))
    try:
        operator_of(name)
    except InvalidInput as error:
        lines = str(node.meta.get("stack_trace") or "").strip().splitlines()
        raise InvalidInput(f"{error}; it comes from {' '.join(lines[-2:]).strip() or 'torch'}; {_REMEDY}") from None
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
    raise InvalidInput(f"an operator takes {value!r}, which no program can hold; {_REMEDY}")


def _where(error: Exception) -> str:
    """The user's innermost line; nothing if there is none."""
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_NOT_THEIRS)]
    return f" line {theirs[-1].lineno} of {theirs[-1].filename}, `{theirs[-1].line}`" if theirs else ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
