"""The steps of a run, and the learning rate of each. Pure."""

from __future__ import annotations

import math

from mlplat.errors import InvalidInput
from mlplat.train.progress import Plan
from mlplat.train.settings import TrainSettings


def plan_for(settings: TrainSettings, rows: int, workers: int) -> Plan:
    """Every worker does the same number of steps, of as many rows: a step without a partner would wait for ever."""
    parts = workers * settings.accumulate
    if rows < parts:
        by = f"{workers} workers" + (f" and accumulate={settings.accumulate}" if settings.accumulate > 1 else "")
        raise InvalidInput(f"{rows} rows to learn from are too few for {by}")
    part = min(max(1, settings.batch_size // parts), rows // parts)
    return Plan(epochs=settings.epochs, steps=rows // (part * parts), rows_per_step=part * parts)


def rate_at(settings: TrainSettings, done: float) -> float:
    """The share of the learning rate when this share of the longest possible run is done."""
    return 1.0 if settings.schedule == "constant" else 0.5 * (1.0 + math.cos(math.pi * done))
