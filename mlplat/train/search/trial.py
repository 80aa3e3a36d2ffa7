"""A trial as it is recorded, and what may become of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["running", "done", "stopped", "failed"]
"""Of these `stopped` was given up early, because it was behind others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`params` is what was chosen, by name, and all that a trial is made of beside the search itself. `steps` is the first goal
    after each step that was told, `metrics` what it came to. `attempts` is how often it was begun, but for giving way."""

    number: int
    state: State
    params: Mapping[str, Any]
    steps: Mapping[int, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    attempts: int = 1
    error: str = ""
    seconds: float = 0.0
    digest: str = ""

    @property
    def ended(self) -> bool:
        return self.state != "running"
