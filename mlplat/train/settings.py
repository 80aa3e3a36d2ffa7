"""How to train: everything that is not the data, the network or the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlplat.errors import InvalidInput

TWO_WEEKS_S = 14 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """`batch_size` is that of all workers together. Rows of the last `holdout_s` seconds are held out: for early
    stopping (`patience` epochs without a better log loss) and for the promoter. The same seed, data and number of
    workers give the same weights.
    """

    loss: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 1e-4
    batch_size: int = 1024
    epochs: int = 6
    patience: int = 2
    seed: int = 0
    holdout_s: float = TWO_WEEKS_S

    def __post_init__(self) -> None:
        self._require(self.loss == "binary_cross_entropy", "loss", "'binary_cross_entropy'")
        self._require(self.schedule in {"constant", "cosine"}, "schedule", "'constant' or 'cosine'")
        self._require(_finite(self.learning_rate) and self.learning_rate > 0, "learning_rate", "a number above 0")
        self._require(_finite(self.weight_decay) and self.weight_decay >= 0, "weight_decay", "a number from 0")
        for name, least in (("batch_size", 2), ("epochs", 1), ("patience", 1), ("seed", 0)):
            value = getattr(self, name)
            self._require(_whole(value) and value >= least, name, f"a whole number from {least}")
        self._require(_finite(self.holdout_s) and self.holdout_s > 0, "holdout_s", "seconds, above 0")

    def to_json(self) -> Mapping[str, Any]:
        return asdict(self)

    def _require(self, ok: bool, name: str, wanted: str) -> None:
        if not ok:
            raise InvalidInput(f"train settings: {name}={getattr(self, name)!r} must be {wanted}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
