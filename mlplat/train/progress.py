"""What a run tells while it goes on: a port, and its shapes for a terminal, for logs and for nobody."""

from __future__ import annotations

import pdb
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mlplat.clock import Clock
from mlplat.config import environment

LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """One pass: the mean loss while learning, and on the rows held out the loss, which comes first, and metrics. `epoch`
    counts from 0."""

    epoch: int
    train_loss: float
    held_out: Mapping[str, float]
    seconds: float
    best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long a run may become: early stopping can end it sooner. `done` steps were done before."""

    epochs: int
    steps: int
    rows_per_step: int
    done: int = 0

    @property
    def total(self) -> int:
        return self.epochs * self.steps


class Progress(Protocol):
    """Called by one thread, in order: notes at any time, `begin` and then steps and epochs, from `begin` again
    where lost workers were replaced, `end` once, however the run ended. Must return quickly."""

    def note(self, text: str) -> None:
        """Something worth a line, such as what the run waits for."""

    def begin(self, plan: Plan) -> None:
        """The first step comes next."""

    def step(self, done: int, loss: float) -> None:
        """`done` steps of `plan.total` are done; not called for every one."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """A pass is over."""

    def end(self) -> None:
        """No more calls come, but notes."""


class Silent:
    """Tells nothing."""

    def note(self, text: str) -> None: ...

    def begin(self, plan: Plan) -> None: ...

    def step(self, done: int, loss: float) -> None: ...

    def epoch(self, metrics: EpochMetrics) -> None: ...

    def end(self) -> None: ...


class Notes(Silent):
    """Tells notes alone, to `say`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def note(self, text: str) -> None:
        self._say(text)


class Lines:
    """A line per epoch and every ten seconds, for logs."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream, self._clock = stream, clock
        self._plan = Plan(epochs=0, steps=1, rows_per_step=0)
        self._began_s = self._said_s = 0.0

    def note(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def begin(self, plan: Plan) -> None:
        self._plan = plan
        self._began_s = self._said_s = self._clock.elapsed_s()

    def step(self, done: int, loss: float) -> None:
        now_s = self._clock.elapsed_s()
        if now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            self.note(f"{done}/{self._plan.total} steps, loss {loss:.4f}{self._rate(done, now_s - self._began_s)}")

    def epoch(self, metrics: EpochMetrics) -> None:
        done = (metrics.epoch + 1) * self._plan.steps
        self.note(f"{describe(metrics, self._plan)}{self._rate(done, self._clock.elapsed_s() - self._began_s)}")

    def end(self) -> None: ...

    def _rate(self, done: int, spent_s: float) -> str:
        here = done - self._plan.done
        if spent_s <= 0 or here <= 0:
            return ""
        left_s = (self._plan.total - done) * spent_s / here
        return f", {here * self._plan.rows_per_step / spent_s:,.0f} rows/s, at most {left_s:.0f} s left"


class Terminal:
    """A moving bar with the rate and the time left. It is away while a debugger has the terminal: it would draw over its prompt,
    and holds back a line that has no end yet."""

    def __init__(self, console: Console) -> None:
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
            transient=True,
        )
        self._plan = Plan(epochs=0, steps=1, rows_per_step=0)
        self._task: TaskID | None = None
        self._hook: Callable[..., Any] | None = None

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)

    def begin(self, plan: Plan) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._plan = plan
        self._task = self._bar.add_task("", total=plan.total, completed=plan.done, said="", rate="")
        self._bar.start()
        if self._hook is None:
            self._hook, sys.breakpointhook = sys.breakpointhook, self._breakpoint

    def step(self, done: int, loss: float) -> None:
        if self._task is not None:
            if sys.gettrace() is None:
                self._bar.start()  # again, after a debugger
            speed = self._bar.tasks[self._task].speed
            rate = f", {speed * self._plan.rows_per_step:,.0f} rows/s" if speed else ""
            self._bar.update(self._task, completed=done, said=f"loss {loss:.4f}", rate=rate)

    def epoch(self, metrics: EpochMetrics) -> None:
        self.note(describe(metrics, self._plan))

    def end(self) -> None:
        self._bar.stop()
        if self._hook is not None:
            sys.breakpointhook, self._hook = self._hook, None

    def _breakpoint(self, *arguments: Any, **named: Any) -> Any:
        self._bar.stop()
        if self._hook is sys.__breakpointhook__ and "PYTHONBREAKPOINT" not in environment().variables:
            # What it would do, with the user's frame and not with this one.
            return pdb.Pdb().set_trace(sys._getframe(1))
        return self._hook(*arguments, **named) if self._hook else None


def describe(metrics: EpochMetrics, plan: Plan) -> str:
    learnt = f"epoch {metrics.epoch + 1}/{plan.epochs}: loss {metrics.train_loss:.4f}"
    held_out = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.held_out.items())
    judged = f", held out: {held_out}{' (best)' if metrics.best else ''}" if held_out else ", no rows held out"
    return f"{learnt}{judged}, {metrics.seconds:.1f} s"


def progress_for(clock: Clock, stream: TextIO | None = None) -> Progress:
    """A bar if the stream (standard error by default) is a terminal, else lines."""
    stream = sys.stderr if stream is None else stream
    console = Console(file=stream)
    return Terminal(console) if console.is_terminal else Lines(stream, clock)
