"""What every policy answers: act, or hold, each with a reason and the evidence. A decision without enough data is a hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Evidence = Mapping[str, float | int | str | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Do it. `reason` is one sentence for people; `evidence` is what the policy saw, by name."""

    reason: str
    evidence: Evidence = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Do not do it (yet). `reason` is one sentence for people; `evidence` is what the policy saw, by name."""

    reason: str
    evidence: Evidence = field(default_factory=dict)


Decision = Act | Hold
