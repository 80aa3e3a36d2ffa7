"""How good probabilities are. Pure numpy, checked in the tests against slow oracles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

EPSILON = 1e-15


def log_losses(labels: Array, probabilities: Array) -> Array:
    """The negative log likelihood of each row; a probability is kept EPSILON away from 0 and 1. NaN stays NaN."""
    p = np.clip(probabilities, EPSILON, 1 - EPSILON)
    out: Array = -np.where(labels > 0, np.log(p), np.log1p(-p))
    return out


def log_loss(labels: Array, probabilities: Array) -> float:
    """The mean negative log likelihood; NaN without rows."""
    return float(log_losses(labels, probabilities).mean()) if len(labels) else math.nan


def base_log_loss(labels: Array) -> float:
    """The log loss of the best constant: what a model that knows nothing could reach on these rows in hindsight."""
    return log_loss(labels, np.full(len(labels), labels.mean())) if len(labels) else math.nan


def auc(labels: Array, probabilities: Array) -> float:
    """The chance that a positive row gets a higher probability than a negative one, ties counting half (Mann-Whitney
    U). NaN if there is only one class, or if a probability is NaN."""
    positives = int((labels > 0).sum())
    negatives = len(labels) - positives
    if not positives or not negatives or np.isnan(probabilities).any():
        return math.nan
    _, place, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[place]  # the mean rank of each tie
    above = ranks[labels > 0].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def brier(labels: Array, probabilities: Array) -> float:
    """The mean squared difference; NaN without rows."""
    return float(((probabilities - labels) ** 2).mean()) if len(labels) else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Bins of (nearly) equally many rows by probability: mean probability, share of positives, rows."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    rows: tuple[int, ...]

    @property
    def error(self) -> float:
        """The mean absolute difference, weighted by rows (expected calibration error)."""
        weights = np.asarray(self.rows, dtype=float)
        gaps = np.abs(np.asarray(self.predicted) - np.asarray(self.observed))
        return float((gaps * weights).sum() / weights.sum()) if weights.sum() else math.nan


def calibration(labels: Array, probabilities: Array, *, bins: int = 10) -> Calibration:
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return Calibration(
        predicted=tuple(float(probabilities[part].mean()) for part in parts),
        observed=tuple(float(labels[part].mean()) for part in parts),
        rows=tuple(len(part) for part in parts),
    )


def summary(labels: Array, probabilities: Array) -> dict[str, float]:
    """All of the above as numbers by name; labels are 0 and 1."""
    return {
        "log_loss": log_loss(labels, probabilities),
        "base_log_loss": base_log_loss(labels),
        "auc": auc(labels, probabilities),
        "brier": brier(labels, probabilities),
        "calibration_error": calibration(labels, probabilities).error,
    }


def multiclass_log_losses(labels: Array, probabilities: Array) -> Array:
    """Of each row the negative log of the right class's probability [n, classes], kept EPSILON away from 0; labels are
    places."""
    right = probabilities[np.arange(len(labels)), labels.astype(np.int64)]
    out: Array = -np.log(np.clip(right, EPSILON, 1.0))
    return out


def multiclass_log_loss(labels: Array, probabilities: Array) -> float:
    """Their mean; NaN without rows."""
    return float(multiclass_log_losses(labels, probabilities).mean()) if len(labels) else math.nan


def accuracy(labels: Array, probabilities: Array) -> float:
    """The share of rows whose most probable class is the right one; of equal ones the first counts. NaN without rows."""
    return float((probabilities.argmax(axis=1) == labels).mean()) if len(labels) else math.nan


def mean_squared_error(labels: Array, values: Array) -> float:
    """NaN without rows."""
    return float(((values - labels) ** 2).mean()) if len(labels) else math.nan


def r2(labels: Array, values: Array) -> float:
    """1 - squared error / squared error of the mean (coefficient of determination). NaN if the labels are all the same."""
    spread = float(((labels - labels.mean()) ** 2).sum()) if len(labels) else 0.0
    return 1.0 - float(((values - labels) ** 2).sum()) / spread if spread else math.nan


def precision(labels: Array, probabilities: Array) -> float:
    """The share of positives among the rows with a probability of at least a half. NaN if there is none."""
    found = probabilities >= 0.5
    return float(labels[found].mean()) if found.any() else math.nan


def recall(labels: Array, probabilities: Array) -> float:
    """The share of the positives that have a probability of at least a half. NaN if there is none."""
    return float((probabilities[labels > 0] >= 0.5).mean()) if (labels > 0).any() else math.nan
