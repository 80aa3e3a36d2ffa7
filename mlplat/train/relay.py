"""Progress from one process to another through a file: rank 0 writes it, the driver follows it.

Not through Ray Train: a report there waits for its controller, so that a report per step would take longer than the
step.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlplat.clock import Clock
from mlplat.train.progress import EpochMetrics, Plan, Progress

TELL_EVERY_S = 0.2


class ToFile:
    """Rank 0's progress, a JSON line each."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._clock = clock
        self._told_s = 0.0

    def note(self, text: str) -> None:
        self._tell("note", text)

    def begin(self, plan: Plan) -> None:
        self._tell("begin", asdict(plan))

    def step(self, done: int, loss: float) -> None:
        now_s = self._clock.elapsed_s()
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            self._tell("step", [done, loss])

    def epoch(self, metrics: EpochMetrics) -> None:
        self._tell("epoch", asdict(metrics))

    def end(self) -> None:
        self._file.close()

    def _tell(self, what: str, value: Any) -> None:
        self._file.write(json.dumps([what, value]) + "\n")
        self._file.flush()


class Follower:
    """Reads the file in a thread and tells the driver's progress; calls `every` as often. What the progress raises comes out
    of `stop`; `failed` says that it did, and nothing more is told."""

    def __init__(self, path: Path, progress: Progress, *, every: Callable[[], None] = lambda: None) -> None:
        self._path, self._progress, self._every = path, progress, every
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="mlplat-progress", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        return self._error is not None

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _follow(self) -> None:
        with self._path.open(encoding="utf-8") as file:
            rest, last = "", False
            while not last:
                last = self._stop.wait(TELL_EVERY_S)  # then once more, for what came before the stop
                try:
                    self._every()
                    *lines, rest = (rest + file.read()).split("\n")
                    for line in lines if self._error is None else ():
                        tell(self._progress, *json.loads(line))
                except Exception as error:  # noqa: BLE001 - it is raised again where the caller can see it
                    self._error = self._error or error


def tell(progress: Progress, what: str, value: Any) -> None:
    """Repeat one line of a file."""
    match what:
        case "note":
            progress.note(value)
        case "begin":
            progress.begin(Plan(**value))
        case "step":
            progress.step(*value)
        case "epoch":
            progress.epoch(EpochMetrics(**value))
