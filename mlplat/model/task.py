"""What a network's raw outputs mean: the steps from numbers to predictions, and from these to answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mlplat.errors import InvalidInput
from mlplat.model.signature import Field

Array = np.ndarray[Any, Any]
Kind = Literal["binary", "multiclass", "regression"]
_ANSWERS: Mapping[Kind, str] = {"binary": "probability", "regression": "value"}
_PROBABILITY, _VALUE = ((Field(name=name, dtype="float64", required=True),) for name in _ANSWERS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`classes` are those of "multiclass" alone, in the order of the network's outputs: at least two different texts, or
    integers."""

    kind: Kind
    classes: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InvalidInput(f"task {self.kind!r} is not one of {', '.join(get_args(Kind))}")
        if self.kind != "multiclass":
            if self.classes:
                raise InvalidInput(f"task {self.kind!r} has no classes, and {len(self.classes)} are given")
        elif len(set(self.classes)) < max(2, len(self.classes)) or {type(c) for c in self.classes} not in (
            {str},
            {int},
        ):
            raise InvalidInput(
                f"task 'multiclass': classes={self.classes!r} must be two or more different texts, or integers"
            )

    @property
    def outputs(self) -> int:
        """Numbers per row that the network gives."""
        return len(self.classes) or 1

    def fields(self) -> tuple[Field, ...]:
        """Of the answer: `probability`; or `class` and `probability.CLASS` of each class; or `value`."""
        if self.kind == "binary":
            return _PROBABILITY
        if self.kind == "regression":
            return _VALUE
        kind: Literal["string", "int64"] = "string" if isinstance(self.classes[0], str) else "int64"
        probabilities = [Field(name=f"probability.{c}", dtype="float64", required=True) for c in self.classes]
        return (Field(name="class", dtype=kind, required=True), *probabilities)

    def predictions(self, raw: Array) -> Array:
        """What metrics compare with labels, from float64 [n, outputs]: probability [n], probabilities [n, classes], or value
        [n]. `InvalidInput` if the network gives another count of numbers per row."""
        if raw.ndim != 2 or raw.shape[1] != self.outputs:
            raise InvalidInput(f"the network gives {raw.shape}, and a {self.kind} task needs (rows, {self.outputs})")
        if self.kind == "multiclass":
            odds = np.exp(raw - raw.max(axis=1, keepdims=True, initial=-np.inf))
            out: Array = odds / odds.sum(axis=1, keepdims=True)
        else:
            out = np.exp(-np.logaddexp(0.0, -raw[:, 0])) if self.kind == "binary" else raw[:, 0].copy()
        return out

    def answers(self, predictions: Array) -> dict[str, Array]:
        """The answer's fields, from what `predictions` gives. Of equally probable classes the first is the answer."""
        if self.kind != "multiclass":
            return {_ANSWERS[self.kind]: predictions}
        dtype = object if isinstance(self.classes[0], str) else np.int64
        answers = {"class": np.array(self.classes, dtype=dtype)[predictions.argmax(axis=1)]}
        return answers | {f"probability.{c}": predictions[:, i].copy() for i, c in enumerate(self.classes)}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "classes": list(self.classes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Task:
        return cls(kind=value["kind"], classes=tuple(value["classes"]))


BINARY = Task(kind="binary")
