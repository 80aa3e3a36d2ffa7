"""From a torch module of the user's own to a network that a model can keep: as a program, or as its code. Imports torch."""

from __future__ import annotations

import copy
import sysconfig
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model.build import load_weights, logits, made, read_weights
from mlplat.model.canonical import canonical
from mlplat.model.check import CHECKED_ROWS, check_same, sample
from mlplat.model.exported import Exported
from mlplat.model.graph import REMEDY, program_of
from mlplat.model.inputs import InputEncoding
from mlplat.model.keras import KerasNetwork
from mlplat.model.program import Program
from mlplat.model.recorded import Recorded
from mlplat.model.shape import Shape

Array = np.ndarray[Any, Any]

SAMPLE_ROWS = 5
# Code that is no user's: our own, the standard library, and what is installed.
_NOT_THEIRS = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    "<frozen",
)


def export(module: nn.Module, encoding: InputEncoding) -> Exported:
    """What `module.forward(numeric float32 [n, k], codes int64 [n, c]) -> [n, outputs]` computes when it evaluates, for any
    n. The module stays as it is; `read_weights(module)` are the weights.

    `InvalidInput` names the user's line that torch cannot follow and says what to do; so it does for a forward that changes
    the module or answers otherwise once exported. `UserCodeError` if the forward raises.
    """
    module = _evaluating(module)
    _check_runs(module, encoding)
    followed = traced(module, encoding, remedy=REMEDY)
    weights = _weights(module)
    text = canonical(program_of(followed, weights)).decode()
    check_same(Program(text, weights), module, encoding)
    version = torch.__version__.partition("+")[0]  # without the kind of machine, which the program does not depend on
    return Exported(program=text, module=_name(module), torch=version)


def record(network: Callable[..., nn.Module], module: nn.Module, encoding: InputEncoding) -> Recorded:
    """The code of `network`, a class or function that takes a `Shape`, of which `module` was made: for a forward that torch
    cannot follow. To load it is to run it, so that a stranger's is refused.

    `InvalidInput` if the text alone does not make a module that takes these weights and answers the same.
    """
    module = _evaluating(module)
    outputs = _check_runs(module, encoding)
    recorded = Recorded.of(network)
    try:
        again = load_weights(made(recorded.make, Shape.of(encoding, outputs)), _weights(module))
    except RuntimeError as error:
        raise InvalidInput(f"the code of {recorded.name!r} makes a network of other weights: {error}") from None
    check_same(again, module, encoding)
    return recorded


def _evaluating(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).cpu().eval()
    except RuntimeError as error:
        raise InvalidInput(f"{_name(module)} cannot be copied, and so not kept: {error}") from None


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


def traced(module: nn.Module, encoding: InputEncoding, *, remedy: str) -> torch.export.ExportedProgram:
    """What an evaluating module does, for any number of rows. `InvalidInput` says which line torch cannot follow, and the
    remedy."""
    inputs = tuple(torch.from_numpy(part) for part in sample(encoding, SAMPLE_ROWS))
    rows = {0: torch.export.Dim("rows", min=1)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's to its own authors: on its deprecations, and on its own modules
            followed = torch.export.export(module, inputs, dynamic_shapes=(rows, rows), strict=False)
            return followed.run_decompositions({})  # so that no step changes a tensor that another step reads
    except Exception as error:
        what = _where(error) or f" the forward of {_name(module)}"
        fixed = "Constraints violated" in str(error)  # which torch finds out at the end, far from the line
        why = "what it does depends on the number of rows" if fixed else _first_line(error)
        raise InvalidInput(f"torch.export cannot follow{what}: {why}; {remedy}") from error


def _where(error: Exception) -> str:
    """The user's innermost line; nothing if there is none."""
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_NOT_THEIRS)]
    return f" line {theirs[-1].lineno} of {theirs[-1].filename}, `{theirs[-1].line}`" if theirs else ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _name(module: nn.Module) -> str:
    kind = module.made_of if isinstance(module, KerasNetwork) else type(module)
    return f"{kind.__module__}.{kind.__qualname__}"
