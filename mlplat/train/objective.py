"""What a task is trained and judged by, where the user says nothing. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mlplat.model.task import Task
from mlplat.train import evaluate
from mlplat.train.science import Loss, Metric


def loss_of(task: Task) -> Loss:
    """The negative log likelihood, or the mean squared error of a number."""
    if task.kind == "multiclass":
        whole: Loss = nn.functional.cross_entropy
        return whole
    column = nn.functional.binary_cross_entropy_with_logits if task.kind == "binary" else nn.functional.mse_loss

    def first_column(raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = column(raw[:, 0], labels)
        return loss

    return first_column


LOSSES = {"binary": "log_loss", "multiclass": "log_loss", "regression": "mean_squared_error"}
"""The names of these losses among the metrics."""
METRICS: Mapping[str, Mapping[str, Metric]] = {
    "binary": {"log_loss": evaluate.log_loss, "auc": evaluate.auc},
    "multiclass": {"log_loss": evaluate.multiclass_log_loss, "accuracy": evaluate.accuracy},
    "regression": {"mean_squared_error": evaluate.mean_squared_error, "r2": evaluate.r2},
}
