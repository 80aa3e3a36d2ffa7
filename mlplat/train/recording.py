"""What a run writes into the metadata store, although that may be away for a while."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from mlplat.clock import Clock
from mlplat.errors import Unavailable
from mlplat.metadata.port import Metadata
from mlplat.train.progress import EpochMetrics, Progress
from mlplat.train.runs import RunFolder

PATIENCE_S = 180.0
PAUSE_S = 1.0

Result = TypeVar("Result")


class Recording:
    """Progress that also writes each epoch to the metadata store. Each is told and written once, though after a kill between
    the store's answer and our note of it the same values once more; what cannot be written now is written with the next
    one, and at the latest by `flush`."""

    def __init__(self, progress: Progress, metadata: Metadata, run_id: str, folder: RunFolder) -> None:
        self._progress, self._metadata, self._run_id, self._folder = progress, metadata, run_id, folder
        self._known = folder.epochs()
        self._unwritten: list[EpochMetrics] = []
        self.note, self.begin, self.step, self.end = progress.note, progress.begin, progress.step, progress.end

    def epoch(self, metrics: EpochMetrics) -> None:
        if metrics.epoch in self._known:
            return
        self._known.add(metrics.epoch)
        self._unwritten.append(metrics)
        try:
            self.flush()
        except Unavailable as error:
            self.note(f"epoch {metrics.epoch + 1} will be recorded later: {error}")
        self._progress.epoch(metrics)

    def flush(self) -> None:
        """Raises `Unavailable` while the store is away."""
        while self._unwritten:
            metrics = self._unwritten[0]
            values = {"train_loss": metrics.train_loss, **metrics.held_out}
            self._metadata.log_metrics(self._run_id, finite(values), step=metrics.epoch)
            self._folder.recorded(metrics.epoch)
            self._unwritten.pop(0)


def patiently(call: Callable[[], Result], clock: Clock, progress: Progress) -> Result:
    """Again and again while the store is away: hours of training are worth minutes. Raises `Unavailable` after
    PATIENCE_S."""
    began_s, turn, said = clock.elapsed_s(), threading.Event(), False
    while True:
        try:
            return call()
        except Unavailable as error:
            if clock.elapsed_s() - began_s > PATIENCE_S:
                raise
            if not said:
                progress.note(f"waiting for the metadata store, {PATIENCE_S:.0f} s at most: {error}")
                said = True
            turn.wait(PAUSE_S)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without those that are undefined, such as the AUC of one class."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
