"""The user's own part of a run: the network or estimator, and where they differ from the usual the loss, the metrics, the
optimiser and the loop. Imports no torch."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from mlplat.errors import InvalidInput
from mlplat.model.architecture import Architecture
from mlplat.model.canonical import canonical
from mlplat.model.estimator import Estimator, is_estimator
from mlplat.model.shape import Shape
from mlplat.source_code import normal_form

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mlplat.train.session import Session

Array = np.ndarray[Any, Any]
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Fits(Protocol):
    """An estimator by the convention of scikit-learn, not fitted yet: of scikit-learn, XGBoost, LightGBM, or a class of the
    user's own. It gets a pandas frame as `mlplat.model.frame` makes it, and labels [n]: 0 and 1, places in the sorted classes,
    or numbers. `predict_proba(frame)` gives [n, classes]; of a regression `predict(frame)` gives [n]."""

    def fit(self, frame: Any, labels: Any, /) -> Any: ...


Network = Architecture | Callable[[Shape], "nn.Module"] | Fits
"""A network in the vocabulary; or a class or function that makes a module with `forward(numeric float32 [n, numbers], codes
int64 [n, len(slots)]) -> [n, outputs]`: logits, or the value of a regression; or an estimator."""
Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""Of what the network gave [n, outputs] and the labels [n] (float32, or int64 places in the sorted classes): their mean."""
Metric = Callable[[Array, Array], float]
"""Of labels [n] and predictions in numpy: probability [n], probabilities [n, classes], or value [n]."""
Optimizer = Callable[[Iterable["nn.Parameter"]], "torch.optim.Optimizer"]

Keep = Literal["program", "code"]
Loop = Callable[["Session"], None]
"""What stands in the place of the platform's loop, on every worker; all workers do the same steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Science:
    """None and no metrics stand for those of the task; of the loop, for the platform's own.

    A network of the user's own is kept in the model as the `keep` "program" that torch.export makes of it, which needs none of
    its code to run; or as its "code", where torch cannot follow it.
    """

    network: Network
    loss: Loss | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    optimizer: Optimizer | None = None
    loop: Loop | None = None
    keep: Keep = "program"

    def __post_init__(self) -> None:
        if self.keep not in get_args(Keep):
            raise InvalidInput(f"keep={self.keep!r} must be {' or '.join(map(repr, get_args(Keep)))}")
        given = {"loss": self.loss, "optimizer": self.optimizer, "loop": self.loop}
        if _is_module(self.network) or not (
            isinstance(self.network, Architecture) or callable(self.network) or is_estimator(self.network)
        ):
            raise InvalidInput(
                f"the network is {self.network!r}: give an architecture, such as mlp((128, 64)), a class or function that makes "
                "a torch module, or an estimator with fit and predict"
            )
        if self.estimator is not None and (named := [name for name, call in given.items() if call is not None]):
            raise InvalidInput(
                f"{type(self.network).__name__} fits by itself: leave out {' and '.join(named)}, and set the estimator's own"
            )
        for name, call in {**given, **self.metrics}.items():
            if call is not None and not callable(call):
                raise InvalidInput(f"{name}={call!r} must be something that can be called")

    @property
    def estimator(self) -> Any:
        """None if it is a network."""
        return self.network if is_estimator(self.network) else None

    def spelled(self) -> dict[str, str]:
        """What is recorded of each part: an architecture as JSON, an estimator by its class and a hash of all its parameters,
        code by its name and a hash of its text."""
        network = self.network
        if isinstance(network, Architecture):
            said = {"network": str(network.to_json())}
        elif is_estimator(network):
            kept, weights = Estimator.of(network)
            about = [kept.to_json(), {name: value.tobytes().hex() for name, value in weights.items()}]
            said = {"network": f"{kept.kind} {hashlib.sha256(canonical(about)).hexdigest()[:12]}"}
        else:
            said = {"network": spelled(network)}
        parts = {"loss": self.loss, "optimizer": self.optimizer, "loop": self.loop}
        said |= {name: spelled(call) for name, call in parts.items() if call is not None}
        return said | {f"metric {name}": spelled(call) for name, call in self.metrics.items()}


def _is_module(value: object) -> bool:
    """A module that is made already: each worker makes its own. Torch that nobody imported has made none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def spelled(call: Any) -> str:
    """A name, and a hash of what makes it what it is: its text with what that uses of its own module, the values that it closes
    over, its defaults and its attributes."""
    if isinstance(call, partial):
        return f"{spelled(call.func)} with {call.args} {sorted(call.keywords.items())}"
    if isinstance(call, BuiltinFunctionType):
        return f"{call.__module__}.{call.__qualname__}"
    body = call if isinstance(call, type | FunctionType) else type(call)
    name, text = body.__qualname__, _text(body)
    values = (
        [] if isinstance(call, type) else [getattr(call, "__defaults__", None), getattr(call, "__kwdefaults__", None)]
    )
    if isinstance(call, FunctionType):
        values += [repr(cell.cell_contents) for cell in call.__closure__ or ()]
    elif not isinstance(call, type):
        values.append(sorted(vars(call).items()) if hasattr(call, "__dict__") else [])
    about = [text, _ADDRESS.sub("", repr(values))]
    return f"{name} {hashlib.sha256(canonical(about)).hexdigest()[:12]}"


def _text(body: type | FunctionType) -> str:
    try:
        return normal_form(body)
    except InvalidInput:
        try:
            return inspect.getsource(body)
        except (OSError, TypeError):
            return f"{body.__module__}.{body.__qualname__}"
