"""A run of an estimator, which fits by itself in one piece. Imports no torch."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model.estimator import Estimator, initialisation_of, initialised
from mlplat.model.frame import framing, predictions
from mlplat.model.task import Task
from mlplat.train.judged import LOSSES, METRICS, losses, own_metric
from mlplat.train.progress import EpochMetrics, Plan, Progress
from mlplat.train.rows import encoded_labels, times_of
from mlplat.train.science import Science
from mlplat.train.work import Learned, Work, Yielded

Array = np.ndarray[Any, Any]

_UNREADY = ("could not convert string", "NaN", "missing values", "Cannot cast object", "category")
_ROUNDS = ("early_stopping_rounds", "early_stopping_round")


def fit(work: Work, progress: Progress, clock: Clock, stop: Callable[[], bool]) -> Learned | Yielded:
    """From the rows to the fitted estimator. A stop is heeded before it fits: after that it runs to its end."""
    if stop():
        return Yielded(step=0)
    began_s = clock.elapsed_s()
    estimator, task = copy.deepcopy(work.science.estimator), work.source.task
    learnt, held_out = _rows(work)
    progress.note(f"fitting {type(estimator).__name__} to {len(learnt[0]):,} rows: it tells nothing until it is done")
    progress.begin(Plan(epochs=1, steps=1, rows_per_step=len(learnt[0])))
    with _seeded(work.settings.seed), _warnings_noted(progress):
        initialised(estimator, initialisation_of(estimator))
        rounds = _fitted(estimator, learnt, held_out, work.epochs)
        kept, weights = Estimator.of(estimator)
        made = initialised(kept.made(weights), initialisation_of(estimator))
        train_loss = float(losses(task, learnt[1], predictions(estimator, learnt[0], task)).mean())
        answers = predictions(made, held_out[0], task)
        if not np.array_equal(answers, predictions(estimator, held_out[0], task)):
            raise InvalidInput(
                f"kept, {kept.kind} answers otherwise than it does now: what it needs must be in its attributes, under names "
                "that do not begin with an underscore"
            )
    metrics = EpochMetrics(
        epoch=rounds - 1,
        train_loss=train_loss,
        held_out=_judged(work.science, task, held_out[1], answers),
        seconds=clock.elapsed_s() - began_s,
        best=True,
    )
    progress.step(1, train_loss)
    progress.epoch(replace(metrics, epoch=0))
    if rounds > 1:
        progress.note(f"{rounds} rounds of boosting")
    return Learned(weights=weights, history=(metrics,), estimator=kept)


Part = tuple[pd.DataFrame, Array]


def _rows(work: Work) -> tuple[Part, Part]:
    """Those to learn from and those held out: the frame, and the labels as estimators take them."""
    source = work.source
    with pa.memory_map(str(source.path)) as file:
        table = pa.ipc.open_file(file).read_all()
    late = times_of(table, source.time) >= source.cut_us
    labels = encoded_labels(table, source.label, source.task)
    labels = labels if source.task.kind == "regression" else labels.astype(np.int64)
    framed = framing(source.encoding)
    learnt, held_out = (
        (framed(table.select(source.encoding.names).filter(pa.array(rows))), labels[rows]) for rows in (~late, late)
    )
    return learnt, held_out


def _fitted(estimator: Any, learnt: Part, held_out: Part, rounds: int | None) -> int:
    """Fits, and says how many rounds of boosting were best; 1 of what has no rounds."""
    name = type(estimator).__name__
    stops = _early_stopping(estimator)
    options: dict[str, Any] = {}
    if stops is not None and rounds is not None:
        estimator.set_params(n_estimators=rounds, **{stops: None})
    elif stops is not None:
        boosts = type(estimator).__module__.startswith("xgboost.")
        options = (
            {"eval_set": [held_out], "verbose": False} if boosts else {"eval_X": held_out[0], "eval_y": held_out[1]}
        )
    try:
        estimator.fit(*learnt, **options)
    except Exception as error:
        unready = any(word in str(error) for word in _UNREADY)
        hint = (
            " (texts are categories and nulls are NaN: encode and impute them in a pipeline before it)"
            if unready
            else ""
        )
        raise UserCodeError(f"{name}.fit raised {type(error).__name__}: {error}{hint}") from error
    if rounds is not None or stops is None:
        return rounds or 1
    best: int = getattr(estimator, "best_iteration_", 0) or getattr(estimator, "best_iteration", 0) + 1
    return best


def _early_stopping(estimator: Any) -> str | None:
    """The parameter that makes it stop by rows held out, if it is set: it has to be given these."""
    given: Mapping[str, Any] = estimator.get_params() if callable(getattr(estimator, "get_params", None)) else {}
    return next((name for name in _ROUNDS if given.get(name) is not None), None)


def _judged(science: Science, task: Task, labels: Array, answers: Array) -> dict[str, float]:
    if not len(labels):
        return {}
    named = LOSSES[task.kind]
    metrics = {name: call for name, call in (science.metrics or METRICS[task.kind]).items() if name != named}
    loss = float(losses(task, labels, answers).mean())
    return {named: loss, **{name: own_metric(name, call, labels, answers) for name, call in metrics.items()}}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """numpy's and Python's own random numbers, which estimators without a random_state draw; the caller's stay as they were."""
    before, of_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(of_numpy)


@contextmanager
def _warnings_noted(progress: Progress) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for text in dict.fromkeys(f"{one.category.__name__}: {one.message}" for one in caught):
        progress.note(text)
