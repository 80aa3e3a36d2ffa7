"""What a piece of work asks of the cluster, such as `cpu:2`. Pure: the totals come in as arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlplat.errors import InvalidInput, Refused

Device = Literal["cpu", "gpu"]

_SYNTAX = re.compile(r"(cpu|gpu)(?::(\d{1,6}))?")
_EXAMPLES = '"cpu:2" (two workers of one core each), "gpu:1", "cpu" (the same as "cpu:1") or "cpu:0" (in this process)'


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """`count` workers with one `device` each; 0 workers means in this process, without the cluster."""

    device: Device
    count: int

    @classmethod
    def parse(cls, text: str) -> Demand:
        """`InvalidInput` with examples if the text is none of the forms."""
        match = _SYNTAX.fullmatch(text.strip().lower()) if isinstance(text, str) else None
        if match is None:
            raise InvalidInput(f"compute={text!r} is not a demand. Write {_EXAMPLES}.")
        device: Device = "gpu" if match[1] == "gpu" else "cpu"
        count = 1 if match[2] is None else int(match[2])
        if device == "gpu" and count == 0:
            raise InvalidInput(f"compute={text!r} asks for no GPU. Write {_EXAMPLES}.")
        return cls(device=device, count=count)

    @property
    def resource(self) -> str:
        """The name of the resource in Ray's totals."""
        return self.device.upper()

    @property
    def in_process(self) -> bool:
        return self.count == 0

    def __str__(self) -> str:
        return f"{self.device}:{self.count}"


def check(demand: Demand, total: Mapping[str, float]) -> None:
    """`Refused` for what the cluster can never hold, however long one waits. `total` is by resource name ("CPU",
    "GPU").
    """
    exists = total.get(demand.resource, 0.0)
    if demand.count > exists:
        raise Refused(
            f"{demand} can never run here: it asks for {demand.count} {demand.resource}, and the whole cluster has "
            f"{exists:g} "
            f"(all of it: {_amounts(total)}). Ask for less, or connect to a larger cluster with connect(..., "
            f"ray=ADDRESS)."
        )


def waiting_for(demand: Demand, available: Mapping[str, float]) -> str | None:
    """What a demand must wait for, in words; None if it can start now. `available` is by resource name."""
    free = available.get(demand.resource, 0.0)
    if demand.count <= free:
        return None
    short = demand.count - free
    return f"{demand} waits for {short:g} more {demand.resource}: {free:g} of the {demand.count} wanted are free"


def _amounts(total: Mapping[str, float]) -> str:
    return ", ".join(f"{total.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
