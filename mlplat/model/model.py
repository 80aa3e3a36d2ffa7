"""A model as one immutable value: network, weights, encoding, signature and task. Its digest is its identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlplat.errors import InvalidInput
from mlplat.model.architecture import Architecture
from mlplat.model.canonical import canonical
from mlplat.model.columns import Columns
from mlplat.model.estimator import Estimator
from mlplat.model.exported import Exported
from mlplat.model.inputs import InputEncoding
from mlplat.model.recorded import Recorded
from mlplat.model.signature import Signature
from mlplat.model.task import BINARY, Task

Array = np.ndarray[Any, Any]
Network = Architecture | Exported | Recorded | Estimator
"""In our vocabulary; as torch's operators; as the code that makes it; or no network at all, but another library's estimator."""
NETWORKS: Mapping[str, type[Network]] = {
    "architecture": Architecture,
    "exported": Exported,
    "recorded": Recorded,
    "estimator": Estimator,
}
"""By their name in a model's JSON."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """Answers with the fields of its task, one answer per row. Thread-safe; nothing in it ever changes."""

    network: Network
    weights: Mapping[str, Array]
    encoding: InputEncoding
    signature: Signature
    task: Task = BINARY

    def __post_init__(self) -> None:
        if self.signature.outputs != self.task.fields():
            found, wanted = ([f.name for f in fields] for fields in (self.signature.outputs, self.task.fields()))
            raise InvalidInput(f"the signature's outputs are {found}, and those of a {self.task.kind} task {wanted}")
        encoded = set(self.encoding.names)
        inputs = {field.name for field in self.signature.inputs()}
        if encoded != inputs:
            raise InvalidInput(f"signature and encoding differ in the inputs {sorted(encoded ^ inputs)}")
        object.__setattr__(self, "weights", {name: _frozen(value) for name, value in sorted(self.weights.items())})

    def predict(self, columns: Columns) -> dict[str, Array]:
        """The task's answers by field, [n] each, for n rows. A row's answer depends on its batch by no more than 1e-6.

        `columns` holds the input columns by name, as lists, arrays or an Arrow table; more columns do no harm.
        `InvalidInput` names a column that is missing or has a wrong type.
        """
        return self.task.answers(self._predictor(columns))

    def warm(self) -> None:
        """Do now what the first `predict` would do besides predicting: import libraries, build the network, and the
        signature's initialisation."""
        _ = self._predictor

    @property
    def runs_code(self) -> bool:
        """Whether to answer is to run code that came with the model."""
        return isinstance(self.network, Recorded) or (
            isinstance(self.network, Estimator) and self.network.code is not None
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of the content: equal models have equal digests, in every process and on every machine."""
        content = hashlib.sha256(canonical(self.spec()))
        for name, value in self.weights.items():
            content.update(canonical([name, value.dtype.str, list(value.shape)]))
            content.update(value.tobytes())
        return content.hexdigest()

    def spec(self) -> dict[str, Any]:
        """All but the weights, as JSON."""
        spec = {
            next(name for name, kind in NETWORKS.items() if isinstance(self.network, kind)): self.network.to_json(),
            "encoding": self.encoding.to_json(),
            "signature": self.signature.to_json(),
        }
        return spec if self.task == BINARY else {**spec, "task": self.task.to_json()}  # as before there were tasks

    @cached_property
    def _predictor(self) -> Callable[[Columns], Array]:
        if isinstance(self.network, Estimator):
            from mlplat.model import frame

            return frame.predictor(self.network, self.weights, self.encoding, self.signature, self.task)
        from mlplat.model import running

        return running.predictor(self.network, self.weights, self.encoding, self.task)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Model({self.digest[:12]}, {sum(v.size for v in self.weights.values())} weights)"


def _frozen(value: Array) -> Array:
    copy = np.array(value, order="C")
    copy.flags.writeable = False
    return copy
