"""How good the network is on the rows held out, after every epoch; and the best one so far. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mlplat.errors import InvalidInput
from mlplat.model.task import Task
from mlplat.train.checkpoints import Tensors
from mlplat.train.encoded import Rows
from mlplat.train.gang import Gang
from mlplat.train.judged import LOSSES, METRICS, own_metric
from mlplat.train.objective import loss_of
from mlplat.train.parallel import Alone
from mlplat.train.progress import EpochMetrics
from mlplat.train.science import Science

Array = np.ndarray[Any, Any]

EVALUATION_ROWS = 8_192


class Judge:
    """`best` are the weights of the epoch with the smallest loss, `behind` how many epochs ago that was. Rank 0 judges."""

    def __init__(self, science: Science, task: Task, held_out: Rows) -> None:
        self.loss = science.loss or loss_of(task)
        self.best: Tensors = {}
        self.behind = 0
        self._least = math.inf
        self._named = "loss" if science.loss else LOSSES[task.kind]
        metrics = science.metrics or METRICS[task.kind]
        self._metrics = {name: metric for name, metric in metrics.items() if name != self._named}
        self._task, self._rows = task, held_out

    def answers(self, forward: Alone, gang: Gang) -> Array:
        """What the network gives for every row held out [n, outputs]: every worker asks it for a share. All call it."""
        share = -(-len(self._rows) // gang.size)
        begin, end = gang.rank * share, min((gang.rank + 1) * share, len(self._rows))
        raw = torch.zeros(share, self._task.outputs)
        forward.module.eval()
        with torch.no_grad():
            for at in range(0, share, EVALUATION_ROWS):  # as often on every worker: layers may be gathered from all
                rows = min(begin + at + EVALUATION_ROWS, end) - (begin + at)
                here = (
                    slice(begin + at, begin + at + rows) if rows > 0 else slice(0, 1)
                )  # none is no batch for some networks
                batch = self._rows.take(here, gang.device)
                raw[at : at + max(0, rows)] = forward.answer(batch.numeric, batch.codes).cpu()[: max(0, rows)]
        found: Array = torch.cat(gang.gather(raw))[: len(self._rows)].double().numpy()
        return found

    def judged(self, raw: Array, *, epoch: int, train_loss: float, seconds: float) -> tuple[EpochMetrics, bool]:
        """The metrics of an epoch, and whether it is the best so far: where no rows are held out, the last one is."""
        if not len(self._rows):
            return EpochMetrics(epoch=epoch, train_loss=train_loss, held_out={}, seconds=seconds, best=True), True
        loss = self._mean_loss(raw)
        if not math.isfinite(loss):
            raise InvalidInput(f"the loss is {loss} on rows held out after epoch {epoch + 1}: the training diverged")
        labels, predictions = self._rows.labels.numpy().astype(np.float64), self._task.predictions(raw)
        found = {name: own_metric(name, call, labels, predictions) for name, call in self._metrics.items()}
        better = loss < self._least
        self._least, self.behind = (loss, 0) if better else (self._least, self.behind + 1)
        metrics = EpochMetrics(
            epoch=epoch, train_loss=train_loss, held_out={self._named: loss, **found}, seconds=seconds, best=better
        )
        return metrics, better

    def keep(self, weights: Mapping[str, Any], *, to_keep: bool) -> None:
        """A copy of the best weights, on the worker that is `to_keep` them."""
        if to_keep:
            self.best = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}

    def state(self) -> dict[str, Any]:
        return {"least": self._least, "behind": self.behind}

    def restore(self, state: Mapping[str, Any], best: Tensors) -> None:
        self._least, self.behind, self.best = state["least"], state["behind"], best

    def _mean_loss(self, raw: Array) -> float:
        return float(self.loss(torch.from_numpy(raw).float(), self._rows.labels))
