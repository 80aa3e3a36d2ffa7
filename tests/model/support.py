"""Small encodings and signatures for networks of any shape."""

from __future__ import annotations

from typing import Any

from mlplat.model import InputEncoding, Signature, Task
from mlplat.model.inputs import RESERVED_SLOTS, CategoricalInput, NumericInput
from mlplat.model.signature import Field


def encoding_of(numbers: int, slots: tuple[int, ...] = ()) -> InputEncoding:
    """Columns n0, n1, ... and c0, c1, ...; a code stands for the text of itself."""
    return InputEncoding(
        numeric=tuple(
            NumericInput(name=f"n{i}", dtype="float64", mean=0.0, scale=1.0, indicator=False) for i in range(numbers)
        ),
        categorical=tuple(
            CategoricalInput(
                name=f"c{i}", dtype="string", vocabulary=tuple(f"v{v:03d}" for v in range(count - RESERVED_SLOTS))
            )
            for i, count in enumerate(slots)
        ),
    )


def signature_of(encoding: InputEncoding, task: Task) -> Signature:
    """Everything comes with the request."""
    request = (
        *(Field(name=column.name, dtype="float64") for column in encoding.numeric),
        *(Field(name=column.name, dtype="string") for column in encoding.categorical),
    )
    return Signature(entities=(), request=request, features=(), outputs=task.fields())


def rows_of(encoding: InputEncoding, rows: int) -> dict[str, list[Any]]:
    numbers = {c.name: [0.25 * i - 0.5 * n for i in range(rows)] for n, c in enumerate(encoding.numeric)}
    texts = {
        c.name: [("new", *c.vocabulary)[i % (1 + len(c.vocabulary))] for i in range(rows)] for c in encoding.categorical
    }
    return {**numbers, **texts}
