"""Machines that can be bought, and when they are: values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mlplat.jobs.job import Amounts, Node

SITE, BOUGHT = "site", "cloud"
"""The label of machines that are bought."""
NODE = "ray.io/node-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Machines that can be bought: what each has, how many there may be at a time, and what one costs per hour."""

    name: str
    total: Amounts
    labels: Mapping[str, str]
    most: int
    price: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """What can be bought, and when. A job as large as all `own` machines of its pool, whether they are there now or not, waits
    `wait_s` for them, half of it half as long. `most` is how many bought machines there may be in all. If `back`, work moves
    between own and bought machines, once it has been where it is for `stay_s`. `closed` says why nothing may be on bought
    machines any more, such as that the money is spent. `egress` is what a GB (1e9 bytes) costs that leaves a place; without any,
    nobody asks where data is."""

    kinds: tuple[Kind, ...]
    own: tuple[Kind, ...]
    most: int
    wait_s: float = 3_600.0
    back: bool = True
    stay_s: float = 300.0
    closed: str = ""
    egress: Mapping[str, float] = field(default_factory=dict)

    def total(self) -> dict[str, float]:
        """The most that there may be of each resource on bought machines."""
        found: dict[str, float] = {}
        for kind in self.kinds:
            for name, amount in kind.total.items():
                found[name] = found.get(name, 0.0) + amount * min(kind.most, self.most)
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> Cloud:
        kinds = {name: tuple(Kind(**kind) for kind in said[name]) for name in ("kinds", "own")}
        return cls(**{**said, **kinds})


def selector(kind: Kind, busy: Iterable[str]) -> dict[str, str]:
    """As Ray writes it: machines of a kind but these. Asked for without that, Ray takes busy machines for those that are asked
    for, and keeps as many idle ones."""
    names = ",".join(sorted(busy))
    return {**kind.labels, NODE: f"!in({names})"} if names else dict(kind.labels)


def own_before_bought(labels: Mapping[str, str]) -> dict[str, Any]:
    """Options of a task, an actor or a replica that has no slots from the queue: it is on own machines with these labels while
    there is room, else on bought ones. Who names a site has said where it is to be."""
    if SITE in labels:
        return {"label_selector": dict(labels)}
    return {
        "label_selector": {**labels, SITE: f"!{BOUGHT}"},
        "fallback_strategy": [{"label_selector": {**labels, SITE: BOUGHT}}],
    }


def is_bought(node: Node) -> bool:
    return node.labels.get(SITE) == BOUGHT
