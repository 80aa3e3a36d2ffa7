"""Trials on a cluster: which of the two ways, and how many at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ray.air.execution.resources import ResourceManager

from mlplat.jobs.demand import Demand
from mlplat.train.search._ray.tune import run_on_tune
from mlplat.train.search._ray.warm import OnWorkers, Warm
from mlplat.train.search.engine import Engine
from mlplat.train.search.running import Objective

SHORT_S = 1.0
"""Trials that take less are not worth a process each."""
TRIED = 2


def run_on_cluster(
    engine: Engine,
    objective: Objective,
    folder: Path,
    heard: Callable[[], None],
    *,
    demand: Demand,
    executor: str,
    at_once: int,
    on_workers: OnWorkers,
    slots: AbstractContextManager[ResourceManager] | None,
) -> None:
    """Until the search is over. With `executor` "auto" the first trials are timed on processes that stay; where they are short
    the others run there too, else Ray Tune begins with the others while they go on."""
    folder.mkdir(parents=True, exist_ok=True)
    warm = Warm(engine, objective, folder, demand, heard)
    tried = min(TRIED, at_once) if executor == "auto" and demand.count == 1 else 0
    try:
        if tried:
            executor = "warm" if _are_short(engine, warm, tried, on_workers) else "tune"
        if executor == "warm":
            warm.start(at_once - warm.count, on_workers)
            warm.go_on()
        else:
            warm.leave()
            if not engine.over:
                with slots or nullcontext() as room:
                    run_on_tune(engine, objective, folder, demand, at_once=at_once, heard=heard, slots=room)
        warm.wait()
    finally:
        warm.stop()


def _are_short(engine: Engine, warm: Warm, count: int, on_workers: OnWorkers) -> bool:
    """By the last ones that the record has, or by trying some."""
    known = [trial.seconds for trial in engine.study.trials.values() if trial.state == "done"][-TRIED:]
    if len(known) < TRIED:
        warm.most = TRIED
        warm.start(count, on_workers)
        if not warm.ended_within(SHORT_S):
            return False
        known = warm.times
    return not known or statistics.median(known) < SHORT_S
