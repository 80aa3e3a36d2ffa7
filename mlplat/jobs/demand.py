"""What a piece of work asks of the cluster, such as `cpu:2`. Pure: the totals come in as arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlplat.errors import InvalidInput, Refused

_SYNTAX = re.compile(r"(cpu|gpu)(?::(\d{1,6})(?:-(\d{1,6}))?)?")
_EXAMPLES = (
    '"cpu:2" (two workers of one core each), "gpu:8", "cpu:1-4" (as many as are free, from one to four), "cpu:0" (in this '
    'process), or what one worker gets, as in {"workers": 2, "CPU": 4, "FPGA": 1, "labels": {"site": "office"}}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """From `least` to `count` workers, each with an amount of each of `resources`, on nodes that have the `labels`. 0
    workers means in this process, without the cluster."""

    count: int
    least: int
    resources: tuple[tuple[str, float], ...]
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, compute: str | Mapping[str, Any], *, idle: bool = False) -> Demand:
        """`InvalidInput` with examples if it is none of the forms. `idle`: there may be no worker at times, as in "cpu:0-4"."""
        if isinstance(compute, Mapping):
            return cls._of_mapping(compute, idle)
        match = _SYNTAX.fullmatch(compute.strip().lower()) if isinstance(compute, str) else None
        if match is None:
            raise InvalidInput(f"compute={compute!r} is not a demand. Write {_EXAMPLES}.")
        least = 1 if match[2] is None else int(match[2])
        most = least if match[3] is None else int(match[3])
        return cls._of(compute, least, most, {match[1].upper(): 1.0}, idle=idle)

    @classmethod
    def _of_mapping(cls, compute: Mapping[str, Any], idle: bool) -> Demand:
        rest = dict(compute)
        workers, labels = rest.pop("workers", 1), rest.pop("labels", {})
        least, most = workers if isinstance(workers, tuple | list) and len(workers) == 2 else (workers, workers)
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (least, most))
        named = isinstance(labels, Mapping) and all(isinstance(x, str) for pair in labels.items() for x in pair)
        if not whole or not named or not all(_amount(name, amount) for name, amount in rest.items()):
            raise InvalidInput(f"compute={compute!r} is not a demand. Write {_EXAMPLES}.")
        resources = {_name(name): float(amount) for name, amount in rest.items()}
        return cls._of(compute, least, most, resources or {"CPU": 1.0}, labels, idle=idle)

    @classmethod
    def _of(
        cls,
        said: Any,
        least: int,
        most: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str] | None = None,
        *,
        idle: bool,
    ) -> Demand:
        in_process = most == 0 and resources == {"CPU": 1.0}
        if not 0 <= least <= most or (least == 0 and not in_process and not (idle and most)):
            raise InvalidInput(
                f"compute={said!r} asks for no worker, or for fewer than it begins with. Write {_EXAMPLES}."
            )
        return cls(
            count=most,
            least=least,
            resources=tuple(sorted(resources.items())),
            labels=tuple(sorted((labels or {}).items())),
        )

    def to_json(self) -> dict[str, Any]:
        """What `parse` takes."""
        workers = self.count if self.least == self.count else [self.least, self.count]
        return {"workers": workers, "labels": dict(self.labels), **dict(self.resources)}

    @property
    def in_process(self) -> bool:
        return self.count == 0

    @property
    def threads(self) -> int:
        """Of one worker."""
        return max(1, int(dict(self.resources).get("CPU", 1.0)))

    def __str__(self) -> str:
        workers = str(self.count) if self.least == self.count else f"{self.least}-{self.count}"
        if len(self.resources) == 1 and not self.labels and self.resources[0] in {("CPU", 1.0), ("GPU", 1.0)}:
            return f"{self.resources[0][0].lower()}:{workers}"
        each = ", ".join(f"{amount:g} {name}" for name, amount in self.resources)
        where = "".join(f", {name}={value}" for name, value in self.labels)
        return f"{workers} x ({each}{where})"


def check(demand: Demand, total: Mapping[str, float]) -> None:
    """`Refused` for what the cluster can never hold, however long one waits. `total` is by resource name ("CPU",
    "GPU").
    """
    for name, amount in demand.resources:
        exists = total.get(name, 0.0)
        if demand.least * amount > exists:
            raise Refused(
                f"{demand} can never run here: it asks for {demand.least * amount:g} {name}, and the whole cluster has "
                f"{exists:g} (all of it: {_amounts(total, name)}). Ask for less, or connect to a larger cluster with "
                "connect(..., ray=ADDRESS)."
            )


def waiting_for(demand: Demand, available: Mapping[str, float]) -> str | None:
    """What a demand must wait for, in words; None if it can start now. `available` is by resource name."""
    for name, amount in demand.resources:
        free, wanted = available.get(name, 0.0), demand.least * amount
        if wanted > free:
            return f"{demand} waits for {wanted - free:g} more {name}: {free:g} of the {wanted:g} wanted are free"
    return None


def lacks_labels(demand: Demand, nodes: Sequence[Mapping[str, str]]) -> str | None:
    """That no node has the labels, in words; None if one has them all. `nodes` are the labels of each."""
    wanted = dict(demand.labels)
    if any(suits(labels, wanted) for labels in nodes):
        return None
    asked = ", ".join(f"{name}={value}" for name, value in wanted.items())
    there = sorted({f"{name}={labels[name]}" for labels in nodes for name in wanted if name in labels})
    has = f"nodes have {', '.join(there)}" if there else f"no node has a label {' or '.join(map(repr, wanted))}"
    return f"{demand} asks for nodes with {asked}, and there is none: {has}"


def suits(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node with such labels has what is wanted, written as Ray's label selectors: a value, `in(a,b)`, and either with
    `!` before it, which a node without the label suits too."""
    return all(_matches(labels.get(name), value) for name, value in wanted.items())


def _matches(label: str | None, wanted: str) -> bool:
    positive = wanted.removeprefix("!")
    inner = positive.removeprefix("in(").removesuffix(")") if positive.startswith("in(") else None
    values = [positive] if inner is None else [value.strip() for value in inner.split(",")]
    return (label in values) == (positive == wanted)


def _amount(name: Any, amount: Any) -> bool:
    return isinstance(name, str) and isinstance(amount, int | float) and not isinstance(amount, bool) and amount > 0


def _name(resource: str) -> str:
    return resource.upper() if resource.lower() in {"cpu", "gpu"} else resource


def _amounts(total: Mapping[str, float], asked: str) -> str:
    return ", ".join(f"{total.get(name, 0.0):g} {name}" for name in dict.fromkeys(("CPU", "GPU", asked)))
