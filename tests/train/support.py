"""Work on a made training set, without a home, and who listens to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mlplat.model import InputEncoding, mlp
from mlplat.testing.learnable import learnable
from mlplat.train.gang import Alone
from mlplat.train.progress import EpochMetrics, Plan, Silent
from mlplat.train.rows import cut_before_end, task_of, times_of
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.work import Source, Work

HELD_OUT_S = 48 * 86_400
TOO_MUCH = 10**15  # numbers


class Listening(Silent):
    """Keeps what it is told, in order: of a step, how many are done."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def begin(self, plan: Plan) -> None:
        self.told.append(plan)

    def step(self, done: int, loss: float) -> None:
        self.told.append(done)

    def epoch(self, metrics: EpochMetrics) -> None:
        self.told.append(metrics)

    @property
    def notes(self) -> list[str]:
        return [told for told in self.told if isinstance(told, str)]

    @property
    def plans(self) -> list[Plan]:
        return [told for told in self.told if isinstance(told, Plan)]

    @property
    def steps(self) -> list[int]:
        return [told for told in self.told if isinstance(told, int)]

    @property
    def epochs(self) -> list[EpochMetrics]:
        return [told for told in self.told if isinstance(told, EpochMetrics)]


class OneOf(Alone):
    """One worker of several, without the others, on a node of its own."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


class Greedy:
    """The usual loss, which asks for more memory than there is at its nth step of learning, while the file `full` says n;
    on two workers the second one does."""

    def __init__(self, full: Path) -> None:
        self.full, self.steps = full, 0

    def __call__(self, raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and raw.requires_grad:
            self.steps += 1
            mine = not dist.is_initialized() or dist.get_rank() == 1
            if mine and self.full.exists() and self.steps >= int(self.full.read_text()):
                torch.empty(TOO_MUCH)
        return nn.functional.binary_cross_entropy_with_logits(raw[:, 0], labels)


def settings(**given: Any) -> TrainSettings:
    return TrainSettings(**{"batch_size": 128, "epochs": 3, "learning_rate": 1e-2, "holdout_s": HELD_OUT_S, **given})


def work(folder: Path, *, made: dict[str, Any] | None = None, science: Science | None = None, **given: Any) -> Work:
    """`given` are settings, `made` what `learnable` takes."""
    data = learnable(folder / "data", **(made or {}))
    table, asked = data.table(), settings(**given)
    task = task_of(table, data.label, asked.task)
    source = Source(
        path=data.path,
        snapshot=data.snapshot,
        label=data.label,
        time=data.time,
        cut_us=cut_before_end(times_of(table, data.time), asked.holdout_s),
        task=task,
        encoding=InputEncoding.fit(table, data.signature(task.fields()).inputs()),
    )
    return Work(
        source=source,
        science=science or Science(network=mlp((16,), dropout=0.1)),
        settings=asked,
        folder=folder / "run",
        cache=folder / "cache",
    )
