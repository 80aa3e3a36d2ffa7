"""The port to the metadata store: runs, registered model versions, aliases, and the ledger of decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mlplat.clock import iso
from mlplat.decision import Act, Decision
from mlplat.errors import InvalidInput

Alias = Literal["candidate", "gold"]
EndStatus = Literal["FINISHED", "FAILED", "KILLED", "SCHEDULED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A registered model. `path` is the artifact (folder or URL), `digest` its identity, `version` counts from 1 per name."""

    name: str
    version: int
    digest: str
    path: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """A decision as it was recorded: which policy, about what, what it said, who asked, when (microseconds UTC)."""

    at_us: int
    policy: str
    subject: str
    decision: Decision
    actor: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For people and programs, without the details."""
        return {
            "at": iso(self.at_us),
            "policy": self.policy,
            "subject": self.subject,
            "act": isinstance(self.decision, Act),
            "reason": self.decision.reason,
            "evidence": dict(self.decision.evidence),
            "actor": self.actor,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the models of a name are for: the metric that counts, which way, and from where on it is good enough (None: the
    better the better)."""

    metric: str
    direction: Literal["max", "min"]
    target: float | None = None

    def __post_init__(self) -> None:
        if self.direction not in {"max", "min"}:
            raise InvalidInput(f"goal: direction={self.direction!r} must be 'max' or 'min'")
        if self.target is not None and not math.isfinite(self.target):
            raise InvalidInput(f"goal: target={self.target!r} must be a finite number, or None")

    def reached(self, value: float) -> bool:
        """False for NaN."""
        return self.target is None or (value >= self.target if self.direction == "max" else value <= self.target)


class Metadata(Protocol):
    """Runs, models, aliases and decisions. Every method is durable when it returns and safe to call from several threads
    and processes; each raises `Unavailable` when the store does not answer. Values given are copied."""

    def start_run(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Begin a run under the experiment `name` and return its id."""

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record metrics of a step. NaN is refused with `InvalidInput`."""

    def put_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Keep texts of any length with a run, by name, once."""

    def texts(self, run_id: str) -> dict[str, str]:
        """Those of a run; empty if it has none."""

    def end_run(self, run_id: str, *, status: EndStatus) -> None:
        """Close a run; SCHEDULED: until it is continued."""

    def continue_run(self, run_id: str) -> None:
        """It is RUNNING again. `NotFound` if unknown."""

    def run(self, run_id: str) -> dict[str, Any]:
        """`{"run_id", "name", "status", "params", "metrics", "tags"}`; metrics are the last of each. `NotFound` if unknown."""

    def register(self, name: str, *, digest: str, path: str, run_id: str) -> ModelVersion:
        """Register an artifact under a name. The same digest under the same name gives the same version again."""

    def version(self, name: str, version: int) -> ModelVersion:
        """`NotFound`, with the near names, if there is none."""

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a name, oldest first; empty if the name is unknown."""

    def names(self) -> list[str]:
        """All registered names, sorted."""

    def set_alias(self, name: str, alias: Alias, version: int) -> None:
        """Point an alias at a version. Only promoters call this."""

    def alias(self, name: str, alias: Alias) -> ModelVersion | None:
        """What the alias points at, or None."""

    def set_goal(self, name: str, goal: Goal) -> None:
        """Of the models of a name; it replaces the one before."""

    def goal(self, name: str) -> Goal | None:
        """None if none was set."""

    def record(self, entry: LedgerEntry) -> None:
        """Append to the ledger."""

    def decisions(self, subject: str | None = None) -> list[LedgerEntry]:
        """The ledger, oldest first; of one subject if given."""

    def close(self) -> None:
        """Release connections. Further calls are an error."""
