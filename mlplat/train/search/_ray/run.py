"""Trials on a cluster: which of the two ways, and how many at once."""

from __future__ import annotations

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
TRIED = 3
"""The first is not timed: with it the process loads its libraries. Of the others the faster one counts, because a machine that
others use too is slow now and then."""
LONG_S, FIRST_S = 5.0, 15.0
"""Longer is not waited for one of them, or for the first."""


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
    """Until the search is over. With `executor` "auto" the first trials are timed on a process that stays; where they are short
    the others run on such processes too, else Ray Tune begins with the others while they go on."""
    folder.mkdir(parents=True, exist_ok=True)
    warm = Warm(engine, objective, folder, demand, heard)
    try:
        if executor == "auto":
            executor = "warm" if demand.count == 1 and _are_short(engine, warm, on_workers) else "tune"
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


def _are_short(engine: Engine, warm: Warm, on_workers: OnWorkers) -> bool:
    """By the last ones that the record has, or by trying some, one after the other."""
    known = [trial.seconds for trial in engine.study.trials.values() if trial.state == "done"][1:]
    if len(known) < TRIED - 1:
        warm.most = TRIED
        warm.start(1, on_workers)
        if not warm.ended_within(LONG_S, FIRST_S):
            return False
        known = warm.times
    return not known or min(known[1 - TRIED :]) < SHORT_S
