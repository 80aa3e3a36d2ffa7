"""Rows going by, for people: a bar on a terminal, a line every ten seconds in a log, and nothing at all for what is
over in a moment."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mlplat.clock import Clock

LINE_EVERY_S = 10.0
BAR_AFTER_S = 1.0
_DOING = {"rows": "making rows", "online": "bringing rows online", "predict": "predicting"}


class Shown:
    """On standard error."""

    def __init__(self, subject: str, clock: Clock) -> None:
        self._subject = subject
        self._clock = clock
        self._console = Console(file=sys.stderr)
        self._doing, self._total = "", 0
        self._said_s = clock.elapsed_s()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def begin(self, phase: str, *, done: int, total: int) -> None:
        self.end()
        self._doing, self._total = _DOING[phase], total
        self._said_s = self._clock.elapsed_s()

    def advance(self, done: int, rate: float | None) -> None:
        now_s = self._clock.elapsed_s()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, said=_rate(rate))
        elif self._console.is_terminal and now_s - self._said_s >= BAR_AFTER_S:
            self._start(done, rate)
        elif not self._console.is_terminal and now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            left = f", {(self._total - done) / rate:,.0f} s left" if rate else ""
            text = f"{self._subject}: {self._doing}, {done:,}/{self._total:,}{_rate(rate)}{left}"
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

    def _start(self, done: int, rate: float | None) -> None:
        self._bar = Bar(
            TextColumn(f"{self._subject}: {self._doing}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=self._total, completed=done, said=_rate(rate))
        self._bar.start()


def _rate(rate: float | None) -> str:
    return f", {rate:,.0f} rows/s" if rate else ""
