"""How to train: everything that is not the data, the user's own code or the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from mlplat.errors import InvalidInput

TWO_WEEKS_S = 14 * 24 * 3600

TaskKind = Literal["binary", "multiclass", "regression"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16"]
Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a crash may cost. None of it changes the weights.

    `steps`: a crash repeats at most so many; None: checkpoints are as frequent as keeps their cost below `share` of the run's
    time, and one is at the end of every epoch unless epochs are so short that this would cost more. `failures`: so many times
    workers may be lost before the run fails.
    """

    steps: int | None = None
    share: float = 0.02
    failures: int = 3

    def __post_init__(self) -> None:
        _require(self, self.steps is None or (_whole(self.steps) and self.steps >= 1), "steps", "a whole number from 1")
        _require(self, _finite(self.share) and 0 < self.share < 1, "share", "between 0 and 1")
        _require(self, _whole(self.failures) and self.failures >= 0, "failures", "a whole number from 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """`batch_size` is that of all workers together, of one step of the optimiser, which `accumulate` parts of it make.

    `task` is what the label is: 0 and 1 ("binary"), one of several texts or integers ("multiclass"), or a number
    ("regression"). Rows of the last `holdout_s` seconds are held out: for early stopping (`patience` epochs without a better
    loss on them) and for the promoter. `precision` "bfloat16" computes in it and keeps the weights in float32. `parallel`
    "ddp" has the whole network on every worker, "fsdp" a share of it (FSDP2). The same seed, data and number of workers
    give the same weights on the same kind of machine.
    """

    task: TaskKind = "binary"
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    weight_decay: float = 1e-4
    batch_size: int = 1024
    accumulate: int = 1
    epochs: int = 6
    patience: int = 2
    seed: int = 0
    holdout_s: float = TWO_WEEKS_S
    precision: Precision = "float32"
    parallel: Parallel = "ddp"
    recovery: Recovery = field(default_factory=Recovery)

    def __post_init__(self) -> None:
        for name, kind in (
            ("task", TaskKind),
            ("schedule", Schedule),
            ("precision", Precision),
            ("parallel", Parallel),
        ):
            known = get_args(kind)
            _require(self, getattr(self, name) in known, name, " or ".join(map(repr, known)))
        _require(self, _finite(self.learning_rate) and self.learning_rate > 0, "learning_rate", "a number above 0")
        _require(self, _finite(self.weight_decay) and self.weight_decay >= 0, "weight_decay", "a number from 0")
        for name, least in (("batch_size", 2), ("accumulate", 1), ("epochs", 1), ("patience", 1), ("seed", 0)):
            value = getattr(self, name)
            _require(self, _whole(value) and value >= least, name, f"a whole number from {least}")
        _require(self, _finite(self.holdout_s) and self.holdout_s > 0, "holdout_s", "seconds, above 0")
        _require(self, isinstance(self.recovery, Recovery), "recovery", "a Recovery")

    def to_json(self) -> Mapping[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainSettings:
        return cls(**{**value, "recovery": Recovery(**value["recovery"])})

    def science(self) -> Mapping[str, Any]:
        """What the weights depend on."""
        return {name: value for name, value in asdict(self).items() if name != "recovery"}


def _require(settings: Recovery | TrainSettings, ok: bool, name: str, wanted: str) -> None:
    if not ok:
        kind = "recovery" if isinstance(settings, Recovery) else "train settings"
        raise InvalidInput(f"{kind}: {name}={getattr(settings, name)!r} must be {wanted}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
