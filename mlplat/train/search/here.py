"""Trials one after the other in this process: for a laptop, a debugger, and a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlplat.train.search.engine import Engine
from mlplat.train.search.running import Event, Left, Objective, Running, evaluate
from mlplat.train.search.settle import settle


def run_here(engine: Engine, objective: Objective, folder: Path, heard: Callable[[], None]) -> None:
    """Until the search is over. `heard` is called whenever something is new."""
    goals = [goal.metric for goal in engine.plan.goals]
    while (task := engine.next()) is not None:
        heard()

        def tell(step: int, value: float, number: int = task.number) -> bool:
            goes_on = engine.told(number, step, value)
            heard()
            return goes_on

        event: Event = Left(gave_way=True)
        try:
            trial = Running(task, folder / str(task.number), tell, lambda: False)
            event = evaluate(objective, engine.plan.space, trial, goals)
        finally:
            settle(engine, task.number, event)
            heard()
