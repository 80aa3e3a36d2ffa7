"""`python -m tests.ray.eating_driver FOLDER`: a driver with a cluster of its own whose memory monitor kills early, and workers
that eat memory until it does. Prints what came of each of two runs as JSON: one may lose a worker, the other none."""

from __future__ import annotations

import json
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from mlplat._ray.session import Session
from mlplat.clock import SystemClock
from mlplat.config import environment, set_environment
from mlplat.errors import MlplatError
from mlplat.jobs.demand import Demand
from mlplat.model import mlp
from mlplat.train._ray import learn_on_workers
from mlplat.train.gang import Alone
from mlplat.train.progress import Plan, Progress, Silent
from mlplat.train.science import Science
from mlplat.train.session import learn
from mlplat.train.settings import Recovery
from mlplat.train.work import Learned, Work, Yielded
from tests.train.support import work

ROOM = 5 * 2**30  # beside what is in use at the start: Ray and a calm training take a third of it
BLOCK = 2**26
KILLED_S = 60.0


class Eating:
    """The usual loss; at its 16th step a process that finds the file `hungry` eats memory until Ray kills it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit, self.steps = folder, limit, 0

    def __call__(self, raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.steps += raw.requires_grad
        if self.steps >= 16 and (self.folder / "hungry").exists():
            (self.folder / "hungry").unlink()
            eaten = []
            while _used() < self.limit + 4 * BLOCK and len(eaten) * BLOCK < 2 * ROOM:
                eaten.append(torch.ones(BLOCK // 4))
            threading.Event().wait(KILLED_S)
        return nn.functional.binary_cross_entropy_with_logits(raw[:, 0], labels)


class Listening(Silent):
    def __init__(self) -> None:
        self.begun: list[int] = []

    def begin(self, plan: Plan) -> None:
        self.begun.append(plan.done)


def _used() -> int:
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def main(folder: Path) -> None:
    limit = _used() + ROOM
    share = limit / psutil.virtual_memory().total
    set_environment({"RAY_memory_usage_threshold": f"{share:.6f}", "RAY_memory_monitor_refresh_ms": "50"})
    eating = partial(Eating, folder, limit)  # each counts its own steps
    calm = ended(_here(_work(folder, eating(), failures=0)))
    with Session.start(None, home=folder / "home", env=environment({}), cpus=2):
        for failures in (1, 0):
            (folder / "hungry").touch()
            one = _work(folder / str(failures), eating(), failures=failures)
            one.folder.mkdir()
            listening = Listening()
            told: dict[str, object] = {}
            try:
                found = ended(learn_on_workers(one, Demand.parse("cpu:1"), listening, lambda: False))
            except MlplatError as error:
                told |= {"error": type(error).__name__, "message": str(error), "cause": repr(error.__cause__)}
                found = ended(_here(one, listening))
            same = all(np.array_equal(value, found.weights[name]) for name, value in calm.weights.items())
            print(json.dumps({**told, "same": same, "begun": listening.begun}), flush=True)


def _work(folder: Path, eating: Eating, *, failures: int) -> Work:
    science = Science(network=mlp((16,), dropout=0.1), loss=eating)
    return work(folder, science=science, recovery=Recovery(steps=8, failures=failures))


def _here(one: Work, progress: Progress | None = None) -> Learned | Yielded:
    return learn(one, Alone(), progress or Silent(), SystemClock(), lambda: False)


def ended(found: Learned | Yielded) -> Learned:
    assert isinstance(found, Learned)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
