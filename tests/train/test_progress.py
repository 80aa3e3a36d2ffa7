"""What is told, in which shape."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

from rich.console import Console

from mlplat.clock import SystemClock
from mlplat.train.progress import EpochMetrics, Lines, Plan, Progress, Silent, Terminal, progress_for

PLAN = Plan(epochs=2, steps=10, rows_per_step=100)
EPOCH = EpochMetrics(epoch=0, train_loss=0.6, held_out={"log_loss": 0.5, "auc": 0.75}, seconds=1.0, best=True)


class Moments:
    """A clock that goes where it is put."""

    def __init__(self) -> None:
        self.s = 100.0

    def now_us(self) -> int:
        return int(self.s * 1_000_000)

    def elapsed_s(self) -> float:
        return self.s


def _run(progress: Progress) -> None:
    progress.note("starting")
    progress.begin(PLAN)
    progress.step(5, 0.7)
    progress.epoch(EPOCH)
    progress.end()


def test_lines_tell_rate_and_time_left() -> None:
    clock, stream = Moments(), io.StringIO()
    lines = Lines(stream, clock)
    lines.begin(PLAN)
    clock.s += 5
    lines.step(2, 0.7)
    assert stream.getvalue() == ""
    clock.s += 5
    lines.step(5, 0.7)
    assert stream.getvalue() == "5/20 steps, loss 0.7000, 50 rows/s, at most 30 s left\n"
    clock.s += 10
    lines.epoch(EPOCH)
    said = stream.getvalue().splitlines()[1]
    assert said.startswith("epoch 1/2: loss 0.6000, held out: log loss 0.5000, auc 0.7500 (best)")
    assert said.endswith("50 rows/s, at most 20 s left")


def test_a_run_that_goes_on_tells_the_rate_of_what_it_does_itself() -> None:
    clock, stream = Moments(), io.StringIO()
    lines = Lines(stream, clock)
    lines.begin(replace(PLAN, done=10))
    clock.s += 10
    lines.step(15, 0.7)
    assert stream.getvalue() == "15/20 steps, loss 0.7000, 50 rows/s, at most 10 s left\n"


def test_a_terminal_gets_a_bar_and_lines_that_stay() -> None:
    stream = io.StringIO()
    _run(Terminal(Console(file=stream, force_terminal=True, width=200)))
    assert "starting" in stream.getvalue()
    assert "epoch 1/2" in stream.getvalue()
    assert "steps" in stream.getvalue()


def test_a_run_that_begins_again_on_new_workers_has_one_bar() -> None:
    stream = io.StringIO()
    progress = Terminal(Console(file=stream, force_terminal=True, width=200))
    progress.begin(PLAN)
    progress.begin(replace(PLAN, done=7))
    stream.truncate(0)
    progress.end()
    assert stream.getvalue().count("steps") == 1
    assert "7/20 steps" in stream.getvalue()


def test_a_file_gets_lines_and_nobody_gets_nothing() -> None:
    stream = io.StringIO()
    progress = progress_for(SystemClock(), stream)
    assert isinstance(progress, Lines)
    _run(progress)
    assert "starting" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    _run(Silent())


def test_a_run_that_never_began_can_end() -> None:
    Terminal(Console(file=io.StringIO(), force_terminal=True)).end()


def test_breakpoint_is_as_it_was_after_a_run_that_began_twice() -> None:
    terminal, before = Terminal(Console(file=io.StringIO(), force_terminal=True)), sys.breakpointhook
    terminal.begin(PLAN)
    terminal.begin(PLAN)
    assert sys.breakpointhook is not before
    terminal.end()
    assert sys.breakpointhook is before
