"""Measuring a version for the promoter: on rows that its training never saw, and beside gold on rows that neither saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, MlplatError, NotFound
from mlplat.features.training_set import TrainingSet
from mlplat.metadata.port import Metadata, ModelVersion
from mlplat.model.artifact import Artifact, load, place
from mlplat.model.model import Model
from mlplat.model.signature import Signature
from mlplat.stats.paired import difference
from mlplat.train import evaluate, judged, probes
from mlplat.train.promoter import Problem, PromotionFacts, SliceFacts
from mlplat.train.rows import encoded_labels, times_of
from mlplat.train.run import CUT_TAG
from mlplat.train.slices import slices
from mlplat.train.trainer import FINAL_OF

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a test of the user's own gets: the model, the rows it never saw in order of time, their labels as numbers (of
    classes: their places), and what the model and gold (None: there is none) predict for them. A final model has seen them:
    in its place stands the version that is judged for it."""

    model: Model
    rows: pa.Table
    labels: Array
    predictions: Array
    gold: Model | None
    gold_predictions: Array | None


PromotionTest = Callable[[Candidate], str | None]
"""Says what is wrong, in one sentence, or None."""


def measured(
    version: ModelVersion,
    gold: ModelVersion | None,
    data: TrainingSet,
    *,
    tests: Sequence[PromotionTest],
    home: Path,
    metadata: Metadata,
    clock: Clock,
) -> PromotionFacts:
    judged_for = evaluated(version, metadata)
    cut_us = cut_of(judged_for, metadata)
    incumbent = None if gold == version else gold
    artifact = loaded(home, version)
    stand_in = artifact if judged_for == version else loaded(home, judged_for)
    if artifact is None or stand_in is None:
        return PromotionFacts(loads=False, rows=0, incumbent=None if incumbent is None else incumbent.version)
    model, task = artifact.model, artifact.model.task
    table, times = _since(data, cut_us)
    labels = encoded_labels(table, data.label, task).astype(np.float64)
    predictions = _predicted(stand_in.model, table)
    facts: dict[str, Any] = {
        "loads": True,
        "rows": len(labels),
        "rarest": judged.rarest(task, labels) if len(labels) else 0,
        "signature_complete": replace(model.signature, initialisation=()) == data.signature(task.fields()),
        "golden_difference": artifact.golden.difference(model),
        "goal": metadata.goal(version.name),
        "incumbent": None if incumbent is None else incumbent.version,
        "size_bytes": _size(place(home, version.name, version.digest)),
    }
    if predictions is not None and len(labels):
        losses = judged.losses(task, labels, predictions)
        facts |= _quality(losses, model, labels, predictions) | _behaviour(model, table, labels, clock)
        if stand_in is not artifact and (now := _predicted(model, table)) is not None:
            facts["refit_loss"] = float(judged.losses(task, labels, now).mean())
        beside = None if incumbent is None else evaluated(incumbent, metadata)
        gold_model, gold_predictions = (None, None) if beside is None else _answers(beside, table, home)
        if beside and gold_model and gold_predictions is not None and gold_model.task == task:
            gold_losses = judged.losses(task, labels, gold_predictions)
            facts |= _versus(losses, gold_losses, table, times >= cut_of(beside, metadata), model.signature)
            facts["interface"] = interface(model.signature, gold_model.signature)
        seen: dict[str, Any] = {"rows": table, "labels": labels, "predictions": predictions}
        candidate = Candidate(model=stand_in.model, gold=gold_model, gold_predictions=gold_predictions, **seen)
        facts["probes"] = (*facts["probes"], *(_tested(test, candidate) for test in tests))
    return PromotionFacts(**{name: _defined(value) for name, value in facts.items()})


def evaluated(version: ModelVersion, metadata: Metadata) -> ModelVersion:
    """The version that is judged for one: of a final one, which learnt from all rows, the one before it; else itself."""
    try:
        judged_for = metadata.run(version.run_id)["tags"].get(FINAL_OF)
    except NotFound:
        return version
    return version if judged_for is None else metadata.version(version.name, int(judged_for))


def cut_of(version: ModelVersion, metadata: Metadata) -> int:
    """The time from which on a version's training saw nothing (microseconds UTC)."""
    try:
        return int(metadata.run(version.run_id)["tags"][CUT_TAG])
    except (KeyError, NotFound):
        raise InvalidInput(
            f"version {version.version} of {version.name!r} has no run that tells which rows it never saw: "
            "train it with mlplat"
        ) from None


def loaded(home: Path, version: ModelVersion) -> Artifact | None:
    try:
        artifact = load(place(home, version.name, version.digest), digest=version.digest, trusted=True)
        artifact.model.warm()
    except MlplatError:
        return None
    return artifact


def interface(new: Signature, gold: Signature) -> tuple[str, ...]:
    """What would break a caller who knows gold's signature."""
    known = {field.name: field for field in (*gold.entities, *gold.request)}
    found = []
    for field in (*new.entities, *new.request):
        before = known.get(field.name)
        if before is None and field.required:
            found.append(f"request field {field.name!r} is new, and callers of gold do not send it")
        if before is not None and before.dtype != field.dtype:
            found.append(f"request field {field.name!r} is {field.dtype}, and gold's is {before.dtype}")
    outputs = {field.name: field.dtype for field in new.outputs}
    found += [f"output {f.name!r} is gone or has another type" for f in gold.outputs if outputs.get(f.name) != f.dtype]
    return tuple(found)


def _since(data: TrainingSet, cut_us: int) -> tuple[pa.Table, Array]:
    """The rows from a time on in the order of time, and their times."""
    table = data.table()
    times = times_of(table, data.time)
    rows = np.flatnonzero(times >= cut_us)
    rows = rows[np.argsort(times[rows], kind="stable")]
    return table.take(pa.array(rows)), times[rows]


def _answers(version: ModelVersion, table: pa.Table, home: Path) -> tuple[Model | None, Array | None]:
    artifact = loaded(home, version)
    return (None, None) if artifact is None else (artifact.model, _predicted(artifact.model, table))


def _predicted(model: Model, table: pa.Table) -> Array | None:
    """None if the rows lack an input of this model: it cannot be judged on them."""
    try:
        return judged.predictions(model.task, model.predict(table))
    except InvalidInput:
        return None


def _quality(losses: Array, model: Model, labels: Array, predictions: Array) -> dict[str, Any]:
    binary = model.task.kind == "binary"
    return {
        "loss": float(losses.mean()),
        "base_loss": judged.base_loss(model.task, labels),
        "metrics": judged.metrics(model.task, labels, predictions),
        "calibration_error": evaluate.calibration(labels, predictions).error if binary else None,
    }


def _behaviour(model: Model, table: pa.Table, labels: Array, clock: Clock) -> dict[str, Any]:
    return {
        "latency_ms": probes.latency_ms(model, table, clock),
        "probes": tuple(probes.robustness(model, table)),
        "leaks": tuple(probes.leaks(table, labels, model.task, model.signature.inputs())[:5]),
    }


def _versus(losses: Array, gold: Array, table: pa.Table, unseen: Array, signature: Signature) -> dict[str, Any]:
    """On the rows that gold's training saw as little as this one's."""
    losses, gold, table = losses[unseen], gold[unseen], table.filter(pa.array(unseen))
    found: dict[str, Any] = {"compared": len(losses)}
    if len(losses) < 2 or not np.isfinite(losses - gold).all():
        return found
    return found | {
        "incumbent_loss": float(gold.mean()),
        "versus": difference(losses - gold),
        "slices": tuple(_slices(losses, gold, table, signature)),
    }


def _slices(losses: Array, gold: Array, table: pa.Table, signature: Signature) -> Iterator[SliceFacts]:
    for name, rows in slices(table, signature.inputs()):
        yield SliceFacts(
            name=name,
            rows=len(rows),
            loss=float(losses[rows].mean()),
            incumbent_loss=float(gold[rows].mean()),
            versus=difference(losses[rows] - gold[rows]),
        )


def _tested(test: PromotionTest, candidate: Candidate) -> Problem:
    """A test that raises has not been passed."""
    name = getattr(test, "__name__", type(test).__name__)
    try:
        return Problem(test=name, problem=test(candidate))
    except Exception as error:  # noqa: BLE001 - whatever it is, the version was not found good
        return Problem(test=name, problem=f"raised {type(error).__name__}: {error}")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
