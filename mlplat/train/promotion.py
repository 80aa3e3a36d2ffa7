"""The controller around `ModelPromoter`: measures a version on rows it never saw, writes the decision down, moves
the aliases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mlplat.clock import Clock
from mlplat.decision import Act, Decision, Hold
from mlplat.errors import InvalidInput, Refused
from mlplat.features.training_set import TrainingSet
from mlplat.metadata.port import Alias, LedgerEntry, Metadata, ModelVersion
from mlplat.train.measure import PromotionTest, measured
from mlplat.train.promoter import ModelPromoter, PromotionFacts

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
    tests: Sequence[PromotionTest] = (),
    actor: str = "platform",
    force: tuple[str, str] | None = None,
) -> Promotion:
    """Decide whether `version` becomes the candidate of its name, and gold if the name has no gold.

    Judged are the rows of `data` that the version's training held out or never had; `tests` are made besides the policy's.
    `force=(who, why)` acts whatever the policy says, and the ledger names both; only a model that does not load cannot be
    forced (`Refused`). A hold moves nothing.
    """
    gold = metadata.alias(version.name, "gold")
    facts = measured(version, gold, data, tests=tests, home=home, metadata=metadata, clock=clock)
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


def _forced(decision: Decision, facts: PromotionFacts, who: str, why: str) -> Decision:
    if not who or not why:
        raise InvalidInput("force=(who, why): both must be said")
    if not facts.loads:
        raise Refused(f"{decision.reason}, and a model that does not load cannot be forced into production")
    said = f"{'hold' if isinstance(decision, Hold) else 'act'}: {decision.reason}"
    return Act(reason=f"forced by {who}: {why}", evidence={**decision.evidence, "policy_said": said})
