"""A trial that is a training on several workers: in the placement group that the trial's own process is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ray

from mlplat.jobs.demand import Demand
from mlplat.train._ray import learn_on_workers
from mlplat.train.progress import Progress
from mlplat.train.work import Learned, Work, Yielded


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    size: int
    group_id: str


def learn_beside(work: Work, demand: Demand, progress: Progress, stop: Callable[[], bool]) -> Learned | Yielded:
    group = ray.util.get_current_placement_group()
    return learn_on_workers(work, demand, progress, stop, Beside(size=demand.count, group_id=group.id.hex()))
