"""The table that estimators fit and predict on: pandas, with a model's input columns by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model.columns import Columns
from mlplat.model.estimator import Estimator, initialised
from mlplat.model.inputs import RESERVED_SLOTS, InputEncoding
from mlplat.model.signature import Signature
from mlplat.model.task import Task

Array = np.ndarray[Any, Any]


def framing(encoding: InputEncoding) -> Callable[[Columns], pd.DataFrame]:
    """Numbers and booleans become float64, NaN where null; texts become categories of the training rows' vocabulary, missing
    where null or not in it."""
    numeric = [column.name for column in encoding.numeric]
    flags = {
        c.name: np.array([np.nan, np.nan, *map(float, c.vocabulary)]) for c in encoding.categorical if c.dtype == "bool"
    }
    kinds = {c.name: pd.CategoricalDtype(list(c.vocabulary)) for c in encoding.categorical if c.dtype != "bool"}
    categorical = [column.name for column in encoding.categorical]

    def framed(columns: Columns) -> pd.DataFrame:
        numbers, codes = encoding.raw(columns)
        found: dict[str, Any] = dict(zip(numeric, numbers, strict=True))
        for name, slots in zip(categorical, codes, strict=True):
            if name in flags:
                found[name] = flags[name][slots]
            else:
                places = np.maximum(slots - RESERVED_SLOTS, -1)
                found[name] = pd.Categorical.from_codes(places, dtype=kinds[name])
        return pd.DataFrame(found)

    return framed


def predictor(
    estimator: Estimator, weights: Mapping[str, Array], encoding: InputEncoding, signature: Signature, task: Task
) -> Callable[[Columns], Array]:
    """From input columns to the task's predictions. Runs the estimator's code, if it has some."""
    ready = initialised(estimator.made(weights), signature.initialisation)
    framed = framing(encoding)
    return lambda columns: predictions(ready, framed(columns), task)


def predictions(estimator: Any, frame: pd.DataFrame, task: Task) -> Array:
    """What metrics compare with labels, as `Task.predictions`: of `predict_proba`, or of a regression of `predict`.

    `UserCodeError` if it raises, `InvalidInput` if it gives another shape.
    """
    name = type(estimator).__name__
    call = "predict" if task.kind == "regression" else "predict_proba"
    if not hasattr(estimator, call):
        raise InvalidInput(f"{name} has no {call}, which a {task.kind} task needs")
    if not len(frame):
        return np.empty((0, len(task.classes)) if task.kind == "multiclass" else 0)
    try:
        found = np.asarray(getattr(estimator, call)(frame), dtype=np.float64)
    except Exception as error:
        raise UserCodeError(f"{name}.{call} raised {type(error).__name__}: {error}") from error
    classes = np.asarray(getattr(estimator, "classes_", range(max(2, len(task.classes)))), dtype=np.int64)
    wanted = (len(frame),) if task.kind == "regression" else (len(frame), len(classes))
    if found.shape != wanted and found.shape != (*wanted, 1):
        raise InvalidInput(f"{name}.{call} gives the shape {found.shape}, and a {task.kind} task needs {wanted}")
    if task.kind == "regression":
        return found.reshape(-1)
    if task.kind == "binary":
        out: Array = found[:, list(classes).index(1)]
        return out
    of_all = np.zeros(
        (len(frame), len(task.classes))
    )  # a class that no row to learn from had has none in the estimator
    of_all[:, classes] = found
    return of_all
