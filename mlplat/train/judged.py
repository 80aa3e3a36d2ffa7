"""How good predictions are, row by row and as a whole, for every task. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlplat.errors import UserCodeError
from mlplat.model.task import Task
from mlplat.train import evaluate

Array = np.ndarray[Any, Any]

LOSSES = {"binary": "log_loss", "multiclass": "log_loss", "regression": "mean_squared_error"}
"""The names of `losses` among the metrics."""
METRICS: Mapping[str, Mapping[str, Callable[[Array, Array], float]]] = {
    "binary": {"log_loss": evaluate.log_loss, "auc": evaluate.auc},
    "multiclass": {"log_loss": evaluate.multiclass_log_loss, "accuracy": evaluate.accuracy},
    "regression": {"mean_squared_error": evaluate.mean_squared_error, "r2": evaluate.r2},
}
"""Of labels and predictions, where the user names none."""


def predictions(task: Task, answers: Mapping[str, Array]) -> Array:
    """What metrics compare with labels, from a model's answers: probability [n], probabilities [n, classes], or value [n]."""
    columns = [answers[f.name] for f in task.fields() if f.name != "class"]
    found: Array = np.column_stack(columns) if task.kind == "multiclass" else columns[0]
    return found


def own_metric(name: str, call: Callable[[Array, Array], float], labels: Array, predictions: Array) -> float:
    """A metric of the user's own. `UserCodeError` names it and what it was given."""
    try:
        return float(call(labels, predictions))
    except Exception as error:
        raise UserCodeError(
            f"metric {name!r} raised {type(error).__name__}: {error}, given {labels.shape} labels and "
            f"{predictions.shape} predictions"
        ) from error


def losses(task: Task, labels: Array, predictions: Array) -> Array:
    """Of each row, what the task is trained by: the negative log likelihood, or the squared error. `labels` and `predictions`
    as metrics get them."""
    if task.kind == "binary":
        return evaluate.log_losses(labels, predictions)
    if task.kind == "multiclass":
        return evaluate.multiclass_log_losses(labels, predictions)
    squared: Array = (predictions - labels) ** 2
    return squared


def base_loss(task: Task, labels: Array) -> float:
    """The mean loss of the best constant on these rows, in hindsight: what a model that knows nothing could reach."""
    if not len(labels):
        return math.nan
    if task.kind == "binary":
        return evaluate.base_log_loss(labels)
    if task.kind == "regression":
        return float(labels.var())
    shares = np.bincount(labels.astype(np.int64), minlength=len(task.classes)) / len(labels)
    seen = shares[shares > 0]
    return float(-(seen * np.log(seen)).sum())


def metrics(task: Task, labels: Array, predictions: Array) -> Mapping[str, float]:
    """By name; what is undefined is left out."""
    if task.kind == "binary":
        found = {
            "log_loss": evaluate.log_loss(labels, predictions),
            "auc": evaluate.auc(labels, predictions),
            "brier": evaluate.brier(labels, predictions),
            "accuracy": float(((predictions >= 0.5) == (labels > 0)).mean()) if len(labels) else math.nan,
            "precision": evaluate.precision(labels, predictions),
            "recall": evaluate.recall(labels, predictions),
        }
    elif task.kind == "multiclass":
        found = {
            "log_loss": evaluate.multiclass_log_loss(labels, predictions),
            "accuracy": evaluate.accuracy(labels, predictions),
        }
    else:
        found = {
            "mean_squared_error": evaluate.mean_squared_error(labels, predictions),
            "mean_absolute_error": float(np.abs(predictions - labels).mean()) if len(labels) else math.nan,
            "r2": evaluate.r2(labels, predictions),
        }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def rarest(task: Task, labels: Array) -> int | None:
    """Rows of the class that has fewest; None for numbers."""
    if task.kind == "regression":
        return None
    return int(np.bincount(labels.astype(np.int64), minlength=max(2, len(task.classes))).min())
