"""How a model came about and what was said of it, for people and programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from mlplat.clock import iso
from mlplat.decision import Act
from mlplat.metadata.port import Goal, LedgerEntry, Metadata, ModelVersion
from mlplat.train.run import PARENT_TAG
from mlplat.train.trainer import EVALUATED

_FEATURE, _DATA = "feature.", "data."


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a version was made of. `features` are view versions by name, `sources` table versions, `settings` and `metrics` as
    they were recorded, `packages` lines as pip writes them, `diff` what was not committed, `decisions` those about this
    version, oldest first."""

    version: ModelVersion
    snapshot: str
    rows: int
    features: Mapping[str, str]
    sources: Mapping[str, int]
    settings: Mapping[str, Any]
    science: Mapping[str, str]
    compute: str
    metrics: Mapping[str, float]
    commit: str | None
    diff: str
    python: str
    machine: str
    packages: tuple[str, ...]
    parent: str | None
    decisions: tuple[LedgerEntry, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {**asdict(self), "decisions": [entry.to_json() for entry in self.decisions]}

    def __str__(self) -> str:
        code = (
            "not under git"
            if self.commit is None
            else self.commit + (", with changes that were not committed" if self.diff else "")
        )
        lines = [
            f"{self.version.name}@{self.version.version}  {self.version.digest[:12]}  run {self.version.run_id}",
            f"data      {self.rows:,} rows, snapshot {self.snapshot}",
            *(f"feature   {name}@{version}" for name, version in self.features.items()),
            *(f"source    {name}, table version {version}" for name, version in self.sources.items()),
            *(f"{name:<9} {said}" for name, said in self.science.items()),
            f"settings  {', '.join(f'{name}={value}' for name, value in self.settings.items())}",
            f"compute   {self.compute}, on {self.machine}, Python {self.python}, {len(self.packages)} packages",
            f"code      {code}",
            f"metrics   {', '.join(f'{name} {value:.4g}' for name, value in self.metrics.items())}",
            *([f"parent    run {self.parent}"] if self.parent else []),
            *(f"{iso(entry.at_us)[:19]}  {_said(entry)}" for entry in self.decisions),
        ]
        return "\n".join(lines)


def lineage_of(version: ModelVersion, metadata: Metadata) -> Lineage:
    run, texts = metadata.run(version.run_id), metadata.texts(version.run_id)
    tags, spec = run["tags"], json.loads(texts.get("spec", "{}"))
    return Lineage(
        version=version,
        snapshot=tags.get("snapshot", "unknown"),
        rows=int(tags.get("rows", 0)),
        features={name.removeprefix(_FEATURE): v for name, v in tags.items() if name.startswith(_FEATURE)},
        sources={name.removeprefix(_DATA): int(v) for name, v in tags.items() if name.startswith(_DATA)},
        settings=spec.get("settings", {}),
        science=spec.get("science", {}),
        compute=tags.get("compute", "unknown"),
        metrics=run["metrics"],
        commit=tags.get("git_commit"),
        diff=texts.get("diff", ""),
        python=tags.get("python", "unknown"),
        machine=tags.get("machine", "an unknown machine"),
        packages=tuple(texts.get("packages", "").splitlines()),
        parent=tags.get(PARENT_TAG),
        decisions=tuple(e for e in metadata.decisions(version.name) if e.details.get("version") == version.version),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldPeriod:
    """A version that was gold from `since_us` until `until_us` (microseconds UTC; None: it still is), and why."""

    version: int
    since_us: int
    until_us: int | None
    reason: str
    actor: str


def gold_history(name: str, metadata: Metadata) -> list[GoldPeriod]:
    """Oldest first."""
    made = [
        e for e in metadata.decisions(name) if isinstance(e.decision, Act) and "gold" in e.details.get("aliases", ())
    ]
    ends = [*(entry.at_us for entry in made[1:]), None]
    return [
        GoldPeriod(
            version=int(entry.details["version"]),
            since_us=entry.at_us,
            until_us=end,
            reason=entry.decision.reason,
            actor=entry.actor,
        )
        for entry, end in zip(made, ends, strict=True)
    ]


def leaderboard(name: str, metadata: Metadata) -> pl.DataFrame:
    """The versions of a name, best first by its goal (else by log loss, else newest first): `version`, the metrics of the best
    epoch (of a `final` one those of the version that was judged for it), whether the goal is `reached`, `gold`,
    `candidate`, `digest`, `run_id`."""
    goal = metadata.goal(name)
    gold, candidate = metadata.alias(name, "gold"), metadata.alias(name, "candidate")
    rows = []
    for version in metadata.versions(name):
        metrics = metadata.run(version.run_id)["metrics"]
        judged = EVALUATED if any(key.startswith(EVALUATED) for key in metrics) else "best_"
        best = {key.removeprefix(judged): value for key, value in metrics.items() if key.startswith(judged)}
        reached = None if goal is None else goal.reached(best.get(goal.metric, math.nan))
        marks = {
            "final": judged == EVALUATED,
            "reached": reached,
            "gold": version == gold,
            "candidate": version == candidate,
        }
        rows.append({"version": version.version, **best, **marks, "digest": version.digest, "run_id": version.run_id})
    found = pl.DataFrame(rows, infer_schema_length=None)
    by = goal or Goal(metric="log_loss", direction="min")
    if by.metric in found.columns:
        return found.sort(by.metric, "version", descending=[by.direction == "max", True], nulls_last=True)
    return found.reverse()


def _said(entry: LedgerEntry) -> str:
    return f"{'act' if isinstance(entry.decision, Act) else 'hold'} by {entry.actor}: {entry.decision.reason}"
