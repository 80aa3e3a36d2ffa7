"""What a network reads and gives, as its maker is told."""

from __future__ import annotations

from dataclasses import dataclass

from mlplat.model.inputs import InputEncoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a network reads and gives: `numbers` float32 columns, an int64 code below each of `slots` for every categorical
    column, and `outputs` numbers per row."""

    numbers: int
    slots: tuple[int, ...]
    outputs: int

    @classmethod
    def of(cls, encoding: InputEncoding, outputs: int) -> Shape:
        return cls(numbers=encoding.width, slots=encoding.slots, outputs=outputs)
