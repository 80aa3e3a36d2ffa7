"""What a model does with rows that it should stand, and whether an input tells too much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mlplat.clock import Clock
from mlplat.errors import MlplatError
from mlplat.model.model import Model
from mlplat.model.signature import Field
from mlplat.model.task import Task
from mlplat.train import evaluate, judged
from mlplat.train.promoter import Problem

Array = np.ndarray[Any, Any]
Columns = dict[str, list[Any]]

ROWS = 64
TOLERANCE = 1e-6
"""Between a row's answers in two batches, where they are at most 1; relative above."""
TIMES, ROUNDS = 10, 30
FAR = {"float64": 1e12, "int64": 2**53}
MOST_CATEGORIES = 50


def robustness(model: Model, table: pa.Table) -> Iterator[Problem]:
    """Nulls, values that training never showed, numbers far out of range, other orders and batches."""
    fields = model.signature.inputs()
    rows: Columns = {field.name: table.column(field.name)[:ROWS].to_pylist() for field in fields}
    yield Problem(test="nulls", problem=_first(_nulls(model, rows, fields)))
    unseen = {f.name: ["\x00 never seen \x00"] * len(rows[f.name]) for f in fields if f.dtype == "string"}
    yield Problem(test="unseen categories", problem=_wrong(model, {**rows, **unseen}))
    far = ({f.name: [way * FAR[f.dtype]] * len(rows[f.name]) for f in fields if f.dtype in FAR} for way in (1, -1))
    yield Problem(test="out of range", problem=_first(_wrong(model, {**rows, **one}) for one in far))
    yield Problem(test="batches", problem=_batches(model, rows))


def leaks(table: pa.Table, labels: Array, task: Task, fields: Sequence[Field]) -> list[tuple[str, float]]:
    """How well each input alone tells the label, best first: the AUC of a class against the others (the greatest of all
    classes), or the squared correlation with a number. A category stands for the mean label of its rows in the other half."""
    found = [(field.name, _alone(_numbers(field, table.column(field.name), labels), labels, task)) for field in fields]
    return sorted(found, key=lambda item: -item[1])


def latency_ms(model: Model, table: pa.Table, clock: Clock) -> float:
    """The slowest answer to one row, warm, in the calmest of many short rounds: what else the machine does is not the model's,
    and a long round meets it for certain."""
    one = {field.name: table.column(field.name)[:1].to_pylist() for field in model.signature.inputs()}
    model.predict(one)

    def answer_s(began_s: float) -> float:
        model.predict(one)
        return clock.elapsed_s() - began_s

    return 1e3 * min(max(answer_s(clock.elapsed_s()) for _ in range(TIMES)) for _ in range(ROUNDS))


def _nulls(model: Model, rows: Columns, fields: Sequence[Field]) -> Iterator[str | None]:
    for names in ([f.name for f in fields], *([f.name] for f in fields)):
        said = _wrong(model, {**rows, **{name: [None] * len(rows[name]) for name in names}})
        yield said and f"{'all inputs' if len(names) == len(fields) else repr(names[0])} null: {said}"


def _batches(model: Model, rows: Columns) -> str | None:
    """A row's answers may depend on no other row."""
    count = len(next(iter(rows.values()), []))
    order = np.random.default_rng(0).permutation(count)
    whole = judged.predictions(model.task, model.predict(rows))
    shuffled = judged.predictions(model.task, model.predict({n: [v[i] for i in order] for n, v in rows.items()}))
    alone = [judged.predictions(model.task, model.predict({n: [v[i]] for n, v in rows.items()})) for i in range(count)]
    for way, found in (("another order", shuffled[np.argsort(order)]), ("a batch of one", np.concatenate(alone))):
        apart = np.abs(found - whole) / np.maximum(1.0, np.abs(whole))
        if not apart.max(initial=0.0) <= TOLERANCE:
            return f"answers differ by {apart.max():.3g} in {way}"
    return None


def _wrong(model: Model, columns: Mapping[str, list[Any]]) -> str | None:
    try:
        found = judged.predictions(model.task, model.predict(columns))
    except MlplatError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - of a module of the user's: it is what is looked for
        return f"{type(error).__name__}: {error}"
    if not np.isfinite(found).all():
        return f"{int((~np.isfinite(found)).sum())} answers are not finite"
    if model.task.kind != "regression" and not ((found >= 0) & (found <= 1)).all():
        return "a probability is outside 0..1"
    return None


def _first(found: Iterator[str | None]) -> str | None:
    return next((said for said in found if said is not None), None)


def _numbers(field: Field, column: pa.ChunkedArray, labels: Array) -> Array:
    """A column as numbers, null as their mean."""
    if field.dtype == "string":
        return _mean_labels(column.to_pylist(), labels)
    values: Array = column.cast(pa.float64()).to_numpy().copy()
    known = np.isfinite(values)
    values[~known] = values[known].mean() if known.any() else 0.0
    return values


def _mean_labels(values: list[Any], labels: Array) -> Array:
    """Of texts with few different values; with many, every value would tell its own row."""
    found = np.full(len(values), float(labels.mean()) if len(labels) else 0.0)
    if len(set(values)) > MOST_CATEGORIES:
        return found
    numbers = {value: i for i, value in enumerate(dict.fromkeys(values))}
    places = np.array([numbers[value] for value in values])
    half = np.arange(len(values)) % 2 == 0
    for place in range(len(numbers)):
        for mine, others in ((half, ~half), (~half, half)):
            if (others & (places == place)).any():
                found[mine & (places == place)] = labels[others & (places == place)].mean()
    return found


def _alone(values: Array, labels: Array, task: Task) -> float:
    if task.kind == "regression":
        spread = values.std() * labels.std()
        return float(((values - values.mean()) * (labels - labels.mean())).mean() / spread) ** 2 if spread else 0.0
    classes: Sequence[int] = range(len(task.classes)) if task.kind == "multiclass" else (1,)
    aucs = [evaluate.auc((labels == c).astype(float), values) for c in classes]
    return max((max(auc, 1 - auc) for auc in aucs if auc == auc), default=0.5)
