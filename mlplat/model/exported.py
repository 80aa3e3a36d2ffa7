"""A network outside the vocabulary, as a value: the operators of torch that `torch.export` saw it call.

It is kept as a list of names and not as torch's own archive (`.pt2`): to read that one may unpickle, evaluate text and call
any function of torch, and its bytes differ from save to save. A program can do nothing but compute with tensors, has one
spelling, and needs no part of torch to load that `import torch` does not bring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlplat.model.canonical import canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """`program` is canonical JSON, in the form that `mlplat.model.program` runs: without the weights, which have the names
    that they have in the module's `state_dict()`. `module` is the class that it was made of and `torch` the version that
    followed it, for people to read."""

    program: str
    module: str
    torch: str

    def to_json(self) -> dict[str, Any]:
        return {"program": json.loads(self.program), "module": self.module, "torch": self.torch}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Exported:
        return cls(program=canonical(value["program"]).decode(), module=value["module"], torch=value["torch"])
