"""Estimators of the user's own, as a script would define them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

SMOOTHING = 20.0


class Rates:
    """Smoothed shares by one category, and a regression of scikit-learn's on what is left of the numbers."""

    initialisation = ("load_names",)

    def __init__(self, column: str = "c1") -> None:
        self.column = column

    def load_names(self) -> None:
        """Opens what cannot be kept."""
        self._names = object()

    def fit(self, frame: pd.DataFrame, labels: np.ndarray[Any, Any]) -> Rates:
        assert self._names
        self.mean = float(labels.mean())
        grouped = pd.Series(labels).groupby(frame[self.column].astype(str).to_numpy())
        counts, sums = grouped.count(), grouped.sum()
        self.rates = ((sums + SMOOTHING * self.mean) / (counts + SMOOTHING)).to_dict()
        self.inner = LogisticRegression().fit(self._numbers(frame), labels)
        return self

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
        assert self._names
        rates = frame[self.column].astype(str).map(self.rates).fillna(self.mean).to_numpy(dtype=float)
        share = 0.3 * rates + 0.7 * self.inner.predict_proba(self._numbers(frame))[:, 1]
        return np.column_stack([1 - share, share])

    def _numbers(self, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
        return frame.select_dtypes("number").fillna(0.0).to_numpy()


class Forgetful:
    """What it needs to answer is under a name that is not kept."""

    def fit(self, frame: pd.DataFrame, labels: np.ndarray[Any, Any]) -> None:
        self._mean = float(labels.mean())

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
        share = np.full(len(frame), getattr(self, "_mean", 0.1))
        return np.column_stack([1 - share, share])


class Elsewhere:
    """Holds an object of a class that nothing keeps."""

    def __init__(self) -> None:
        self.parts = [Forgetful()]

    def fit(self, frame: pd.DataFrame, labels: np.ndarray[Any, Any]) -> None:
        pass

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
        return np.full((len(frame), 2), 0.5)


class Breaks(Forgetful):
    """Its own `fit` raises."""

    def fit(self, frame: pd.DataFrame, labels: np.ndarray[Any, Any]) -> None:
        raise ZeroDivisionError(f"of {len(frame.columns)} columns")
