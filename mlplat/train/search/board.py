"""What a search shows while it goes on: how far it is, who leads, and how long it may take."""

from __future__ import annotations

import sys
import threading
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlplat.clock import Clock
from mlplat.train.search.engine import Engine
from mlplat.train.search.ranking import ranked, spelled
from mlplat.train.search.trial import Trial

LINE_EVERY_S, LOOK_EVERY_S = 10.0, 0.25
LEADERS = 5


class Board:
    """On a terminal a table that changes, else a line whenever another trial leads, and every ten seconds."""

    def __init__(self, clock: Clock, stream: TextIO | None = None) -> None:
        self._clock = clock
        self._stream = sys.stderr if stream is None else stream
        console = Console(file=self._stream)
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._began_s = self._said_s = clock.elapsed_s()
        self._began = -1
        self._leader: int | None = None
        self._looked_s = -LOOK_EVERY_S
        self._lock = threading.Lock()

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def show(self, engine: Engine, *, last: bool = False) -> None:
        """Something is new. Of several threads one shows it."""
        now_s = self._clock.elapsed_s()
        if not last and now_s - self._looked_s < LOOK_EVERY_S:
            return
        with self._lock:
            self._looked_s = now_s
            self._show(engine, now_s, last=last)

    def _show(self, engine: Engine, now_s: float, *, last: bool) -> None:
        trials = list(engine.study.trials.values())
        ended = sum(trial.ended for trial in trials)
        if self._began < 0:
            self._began = ended
        leaders = ranked(trials, engine.plan.goals)[:LEADERS]
        leader = leaders[0].number if leaders else None
        if self._live is None and not last and leader == self._leader and now_s - self._said_s < LINE_EVERY_S:
            return
        self._said_s, self._leader = now_s, leader
        line = self._line(engine, trials, ended, now_s)
        if self._live is not None:
            self._live.update(Group(Text(line), self._table(engine, leaders)), refresh=True)
        else:
            best = f"; best: {_said(engine, leaders[0])}" if leaders else ""
            self.note(line + best)

    def _line(self, engine: Engine, trials: list[Trial], ended: int, now_s: float) -> str:
        counts = {state: sum(trial.state == state for trial in trials) for state in ("running", "stopped", "failed")}
        words = {"running": "running", "stopped": "given up", "failed": "failed"}
        said = "".join(f", {count} {words[state]}" for state, count in counts.items() if count)
        here = ended - self._began
        left = f", about {engine.left * (now_s - self._began_s) / here:,.0f} s left" if here > 0 and engine.left else ""
        return f"{ended}/{ended + engine.left} trials{said}{left}"

    def _table(self, engine: Engine, leaders: list[Trial]) -> Table:
        table = Table("trial", *(goal.metric for goal in engine.plan.goals), "chosen", box=None)
        for trial in leaders:
            table.add_row(str(trial.number), *(f"{value:.5g}" for value in trial.values), spelled(trial))
        return table


def _said(engine: Engine, trial: Trial) -> str:
    values = ", ".join(f"{goal.metric} {v:.5g}" for goal, v in zip(engine.plan.goals, trial.values, strict=True))
    return f"{values} (trial {trial.number}: {spelled(trial)})"
