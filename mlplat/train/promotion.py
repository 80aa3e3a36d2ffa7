"""The controller around `ModelPromoter`: measures a version on rows it never saw, writes the decision down, moves
the aliases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mlplat.clock import Clock
from mlplat.decision import Act, Decision, Hold
from mlplat.errors import InvalidInput, MlplatError, NotFound, Refused
from mlplat.features.training_set import TrainingSet
from mlplat.metadata.port import Alias, LedgerEntry, Metadata, ModelVersion
from mlplat.model.artifact import Artifact, load, place
from mlplat.model.model import Model
from mlplat.model.task import BINARY
from mlplat.train import evaluate
from mlplat.train.promoter import ModelPromoter, PromotionFacts
from mlplat.train.rows import encoded_labels, split, times_of
from mlplat.train.run import CUT_TAG

Array = np.ndarray[Any, Any]

POLICY = "model_promoter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What was decided, and which aliases point at the version because of it."""

    version: ModelVersion
    decision: Decision
    aliases: tuple[Alias, ...]


def promote(
    version: ModelVersion,
    data: TrainingSet,
    *,
    home: Path,
    metadata: Metadata,
    clock: Clock,
    promoter: ModelPromoter | None = None,
    actor: str = "platform",
    force: tuple[str, str] | None = None,
) -> Promotion:
    """Decide whether `version` becomes the candidate of its name, and gold if the name has no gold.

    Judged are the rows of `data` that the version's training held out or never had. `force=(who, why)` acts whatever
    the policy says, and the ledger names both; only a model that does not load cannot be forced (`Refused`). A hold
    moves nothing.
    """
    gold = metadata.alias(version.name, "gold")
    facts = gather(version, gold, data, home, metadata)
    now_us = clock.now_us()
    decision = (promoter or ModelPromoter()).decide(facts, now_us=now_us)
    if force is not None:
        actor, decision = force[0], _forced(decision, facts, *force)
    first = gold is None and isinstance(decision, Act)
    aliases: tuple[Alias, ...] = ("candidate", "gold") if first else ("candidate",) if isinstance(decision, Act) else ()
    metadata.record(
        LedgerEntry(
            at_us=now_us,
            policy=POLICY,
            subject=version.name,
            decision=decision,
            actor=actor,
            details={**asdict(version), "snapshot": data.snapshot, "aliases": list(aliases)},
        )
    )
    for alias in aliases:
        metadata.set_alias(version.name, alias, version.version)
    return Promotion(version=version, decision=decision, aliases=aliases)


def gather(
    version: ModelVersion, gold: ModelVersion | None, data: TrainingSet, home: Path, metadata: Metadata
) -> PromotionFacts:
    """Measure a version, and gold beside it on the same rows."""
    table, labels = unseen_rows(version, data, metadata)
    incumbent = None if gold is None or gold.version == version.version else gold
    common = {"rows": len(labels), "positives": int(labels.sum()), "incumbent": incumbent and incumbent.version}
    artifact = _load(home, version)
    if artifact is None:
        return _facts(common, signature_complete=False, loads=False)
    probabilities = _predict(artifact.model, table)
    return _facts(
        common,
        signature_complete=artifact.model.signature == data.signature(BINARY.fields()),
        loads=True,
        golden_difference=artifact.golden.difference(artifact.model),
        base_log_loss=evaluate.base_log_loss(labels),
        log_loss=None if probabilities is None else evaluate.log_loss(labels, probabilities),
        auc=None if probabilities is None else evaluate.auc(labels, probabilities),
        incumbent_log_loss=None if incumbent is None else _log_loss(home, incumbent, table, labels),
    )


def unseen_rows(version: ModelVersion, data: TrainingSet, metadata: Metadata) -> tuple[pa.Table, Array]:
    """The rows from the time on where the version's own training stopped to learn, and their labels."""
    try:
        cut_us = int(metadata.run(version.run_id)["tags"][CUT_TAG])
    except (KeyError, NotFound):
        raise InvalidInput(
            f"version {version.version} of {version.name!r} has no run that tells which rows it never saw: "
            "train it with mlplat"
        ) from None
    table = data.table()
    labels = encoded_labels(table, data.label, BINARY)
    rows = split(times_of(table, data.time), cut_us).held_out
    return table.take(pa.array(rows)), labels[rows]


def _load(home: Path, version: ModelVersion) -> Artifact | None:
    try:
        artifact = load(place(home, version.name, version.digest), digest=version.digest, trusted=True)
        artifact.model.warm()
    except MlplatError:
        return None
    return artifact


def _predict(model: Model, table: pa.Table) -> Array | None:
    """None if the rows lack an input of this model: it cannot be judged on them."""
    try:
        return model.predict(table)["probability"]
    except InvalidInput:
        return None


def _log_loss(home: Path, version: ModelVersion, table: pa.Table, labels: Array) -> float | None:
    artifact = _load(home, version)
    probabilities = None if artifact is None else _predict(artifact.model, table)
    return None if probabilities is None else evaluate.log_loss(labels, probabilities)


def _facts(common: Mapping[str, Any], **measured: Any) -> PromotionFacts:
    nothing = {"golden_difference": None, "log_loss": None, "base_log_loss": None, "auc": None}
    defined = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in measured.items()}
    return PromotionFacts(**{**nothing, **common, **defined})


def _forced(decision: Decision, facts: PromotionFacts, who: str, why: str) -> Decision:
    if not who or not why:
        raise InvalidInput("force=(who, why): both must be said")
    if not facts.loads:
        raise Refused(f"{decision.reason}, and a model that does not load cannot be forced into production")
    said = f"{'hold' if isinstance(decision, Hold) else 'act'}: {decision.reason}"
    return Act(reason=f"forced by {who}: {why}", evidence={**decision.evidence, "policy_said": said})
