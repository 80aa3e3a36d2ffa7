"""What an autoscaler is shown of a cluster: values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Ray on a machine. `idle_s`: how long nothing has been on it (None: something is). `dead`: it has ended there."""

    machine: str
    kind: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    idle_s: float | None = None
    dead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """So many bundles are to fit on machines with the labels, whatever else there is."""

    each: Mapping[str, float]
    labels: Mapping[str, str]
    count: int


def head_of(machine: str, kind: str) -> Alive:
    """The node by which Ray knows that there is a head. No work is put on it."""
    mark = {"node:__internal_head__": 1.0}
    return Alive(machine=machine, kind=kind, total=mark, free=mark)
