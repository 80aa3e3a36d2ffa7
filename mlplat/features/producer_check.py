"""May another producer feed a source? Pure: what was seen of a sample beside what is kept of the table, and the policy."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from mlplat.decision import Act, Decision, Evidence, Hold
from mlplat.features.definitions import Source
from mlplat.stats import ColumnSketch, TableSketch, outside, overlap, psi

SHOWN = 5
UNIQUE = 0.9
"""Whole numbers of which so many are different count as identifiers: the next ones are new by their nature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """One column of the sample beside the same one of the table. None is what does not apply.

    `psi` and `outside` are of numbers, `overlap` is of frequent values (`mlplat.stats`).
    """

    name: str
    null_rate: float
    null_rate_kept: float
    psi: float | None = None
    outside: float | None = None
    overlap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerFacts:
    """`problems` are why `ingest` would refuse the sample; `known_keys` is the share of its entities that the table has."""

    rows: int
    rows_kept: int
    problems: tuple[str, ...] = ()
    known_keys: float | None = None
    columns: tuple[ColumnFacts, ...] = ()


def compare(source: Source, kept: TableSketch, given: TableSketch) -> tuple[ColumnFacts, ...]:
    """Of keys, times and ids only the nulls are compared: that they are new is no fault."""
    named = {*source.key, source.time, source.id, source.created}
    return tuple(
        _column(name, kept.columns[name], sketch, named)
        for name, sketch in given.columns.items()
        if name in kept.columns
    )


def _column(name: str, kept: ColumnSketch, given: ColumnSketch, named: Collection[str | None]) -> ColumnFacts:
    counter = kept.kind == "int64" and kept.distinct() >= UNIQUE * kept.count
    measured = name not in named and kept.kind in ("float64", "int64") and not counter
    listed = name not in named and kept.kind in ("string", "bool")
    return ColumnFacts(
        name=name,
        null_rate=given.null_rate,
        null_rate_kept=kept.null_rate,
        psi=psi(kept, given) if measured else None,
        outside=outside(kept, given) if measured else None,
        overlap=overlap(kept, given) if listed else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerCheck:
    """The policy. `min_rows` are needed of the sample and of the table; `max_null_change` is the most by which the share of
    nulls may differ, `max_outside` the most that may lie beyond the extremes that were seen."""

    min_rows: int = 500
    max_null_change: float = 0.05
    max_psi: float = 0.25
    max_outside: float = 0.02
    min_overlap: float = 0.7
    min_known_keys: float = 0.5

    def decide(self, facts: ProducerFacts) -> Decision:
        """Act, or hold with all that stands against it, by column. Every comparison is written so that a NaN holds."""
        evidence = _evidence(facts)
        reasons = list(facts.problems) or self._data(facts) or self._differences(facts)
        if reasons:
            more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
            return Hold(reason="; ".join(reasons[:SHOWN]) + more, evidence=evidence)
        return Act(
            reason=f"{facts.rows:,} rows are like the {facts.rows_kept:,} newest ones in all {len(facts.columns)} columns",
            evidence=evidence,
        )

    def _data(self, facts: ProducerFacts) -> list[str]:
        return [
            f"{what} has {rows:,} rows, {self.min_rows:,} are needed"
            for what, rows in (("the sample", facts.rows), ("the table", facts.rows_kept))
            if rows < self.min_rows
        ]

    def _differences(self, facts: ProducerFacts) -> list[str]:
        reasons = [f"column {column.name!r}: {said}" for column in facts.columns for said in self._of_column(column)]
        if facts.known_keys is not None and not facts.known_keys >= self.min_known_keys:
            known, wanted = f"{facts.known_keys:.1%}", f"{self.min_known_keys:.0%}"
            reasons.insert(0, f"only {known} of the sample's entities are in the table, {wanted} are needed")
        return reasons

    def _of_column(self, column: ColumnFacts) -> list[str]:
        said: list[str] = []
        if not abs(column.null_rate - column.null_rate_kept) <= self.max_null_change:
            said.append(
                f"{column.null_rate:.1%} nulls, and {column.null_rate_kept:.1%} before; "
                f"{self.max_null_change:.0%} of difference is allowed"
            )
        if column.psi is not None and not column.psi <= self.max_psi:
            said.append(f"its numbers are spread otherwise, PSI {column.psi:.2f} where {self.max_psi:g} is allowed")
        if column.outside is not None and not column.outside <= self.max_outside:
            said.append(f"{column.outside:.1%} lie beyond all before, {self.max_outside:.0%} are allowed")
        if column.overlap is not None and not column.overlap >= self.min_overlap:
            said.append(f"its values overlap by {column.overlap:.0%} where {self.min_overlap:.0%} is needed")
        return said


def _evidence(facts: ProducerFacts) -> Evidence:
    """By column, as `temperature.psi`."""
    found: dict[str, float | int | str | bool | None] = {"rows": facts.rows, "rows_kept": facts.rows_kept}
    found |= {f"problem {at + 1}": problem for at, problem in enumerate(facts.problems)}
    if facts.known_keys is not None:
        found["known_keys"] = facts.known_keys
    for column in facts.columns:
        for name in ("null_rate", "null_rate_kept", "psi", "outside", "overlap"):
            value = getattr(column, name)
            if value is not None and math.isfinite(value):
                found[f"{column.name}.{name}"] = round(value, 6)
    return found
