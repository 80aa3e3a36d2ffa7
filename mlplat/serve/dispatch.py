"""Who is asked for which rows of one request, and what happens when an arm fails or is late. Pure: events in, instructions
out; whoever carries them out has the clock and the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlplat.serve.routing import GOLD, Arm, Assignment, RoutingTable, assign, assign_all

Failure = Literal["failed", "late"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask the version of an arm for these rows. `arms` has for each row the arm that it was assigned to: another one than
    gold, where gold answers for one that did not; `instead` says why."""

    version: int
    rows: tuple[int, ...]
    arms: tuple[Assignment, ...]
    instead: Failure | None = None

    @property
    def is_gold(self) -> bool:
        """Nobody else can answer these rows."""
        return self.instead is not None or self.arms[0].arm.name == GOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Show these rows to a shadow as well. Its answer goes to nobody."""

    arm: Arm
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Count these rows against an arm."""

    arm: str
    failure: Failure
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Give:
    """Every row has an answer: give them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Rows of gold have no answer, and an experiment never answers for gold: the request fails."""


Instruction = Ask | Mirror | Count | Give | Fail


class Singles:
    """What a request of one row asks for, made once for each arm: what `Dispatch` begins with, if no shadow is shown it."""

    def __init__(self, table: RoutingTable) -> None:
        self._table = table
        self._asks = {
            arm.name: Ask(version=arm.version, rows=(0,), arms=(Assignment(arm=arm, propensity=arm.share),))
            for arm in table.arms
        }

    def of(self, unit: str) -> Ask | None:
        """None if there is more to do than to ask."""
        table = self._table
        if table.mirrors:
            return None
        return self._asks[table.arms[0].name if len(table.arms) == 1 else assign(table, unit).arm.name]


class Dispatch:
    """One request. `begin` first; then `answered` or `failed` for every `Ask`, in any order. Ends with one `Give` or `Fail`,
    after which nothing more is instructed."""

    def __init__(self, table: RoutingTable, units: Sequence[str]) -> None:
        self._table = table
        self._arms = assign_all(table, units)
        self._open: set[Ask] = set()
        self._over = False

    def begin(self) -> list[Instruction]:
        rows: dict[str, list[int]] = {}
        for row, assigned in enumerate(self._arms):
            rows.setdefault(assigned.arm.name, []).append(row)
        asks = [self._ask(arm.version, rows[arm.name]) for arm in self._table.arms if arm.name in rows]
        self._open = set(asks)
        every = tuple(range(len(self._arms)))
        return [*asks, *(Mirror(arm=mirror, rows=every) for mirror in self._table.mirrors)]

    def answered(self, ask: Ask) -> list[Instruction]:
        self._open.remove(ask)
        if self._over or self._open:
            return []
        self._over = True
        return [Give()]

    def failed(self, ask: Ask, failure: Failure) -> list[Instruction]:
        self._open.remove(ask)
        if ask.is_gold:
            over, self._over = self._over, True
            return [] if over else [Fail()]
        counted = Count(arm=ask.arms[0].arm.name, failure=failure, rows=len(ask.rows))
        if self._over:
            return [counted]
        again = self._ask(self._table.arms[0].version, ask.rows, failure)
        self._open.add(again)
        return [counted, again]

    def _ask(self, version: int, rows: Sequence[int], instead: Failure | None = None) -> Ask:
        return Ask(version=version, rows=tuple(rows), arms=tuple(self._arms[row] for row in rows), instead=instead)
