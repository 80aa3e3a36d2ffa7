"""A network that only its own code can run: the code travels with the model, as text.

Unlike a program it can do whatever Python can, so that `artifact.load` takes it from those alone whom its caller trusts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model.canonical import canonical
from mlplat.model.shape import Shape
from mlplat.source_code import load, module_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """`code` is a Python module whose `name`, a class or function, makes the network of a `Shape` and of `arguments`, which
    are canonical JSON."""

    name: str
    code: str
    arguments: str

    @classmethod
    def of(cls, network: Callable[..., Any]) -> Recorded:
        """Of a class or function that takes a `Shape`, or of a `functools.partial` of one with more keywords.

        `InvalidInput` says why it cannot be written down: its file cannot be read, it uses a name that its module alone
        cannot give, or an argument is no JSON.
        """
        maker, keywords = (network.func, network.keywords) if isinstance(network, partial) else (network, {})
        if isinstance(network, partial) and network.args:
            raise InvalidInput(f"{network}: give the arguments of a network by name, so that they can be recorded")
        if not isinstance(maker, type | FunctionType):
            raise InvalidInput(f"{maker!r} is no class and no function: its code cannot be recorded")
        code = module_text(maker)
        if code is None:
            raise InvalidInput(
                f"{maker.__name__!r} uses a name that its module alone cannot give, such as a variable of the function "
                "around it: define it at the top of a file"
            )
        return cls(name=maker.__name__, code=code, arguments=_written(maker.__name__, keywords))

    def make(self, shape: Shape) -> Any:
        """A fresh `torch.nn.Module`. Runs the code; `UserCodeError` if that raises."""
        made = load("network", self.name, self.code, remedy="")
        try:
            return made(shape, **json.loads(self.arguments))
        except Exception as error:
            raise UserCodeError(
                f"network {self.name!r}: making it of {shape} raised {type(error).__name__}: {error}"
            ) from error

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "code": self.code, "arguments": json.loads(self.arguments)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recorded:
        return cls(name=value["name"], code=value["code"], arguments=canonical(value["arguments"]).decode())


def _written(name: str, keywords: Mapping[str, Any]) -> str:
    try:
        text = canonical(dict(keywords)).decode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the arguments of {name!r} cannot be recorded: {error}. Give numbers, texts, lists and mappings of them."
        ) from None
    return text
