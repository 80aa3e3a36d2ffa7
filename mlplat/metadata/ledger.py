"""What MLflow has no place for, in SQL tables beside its own in the same database: decisions, long texts of runs, goals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from mlplat.decision import Act, Decision, Hold
from mlplat.metadata.database import engine_of, make_tables
from mlplat.metadata.port import Goal, LedgerEntry
from mlplat.metadata.rules import holdable, plain

_TABLES = sa.MetaData()
_DECISIONS = sa.Table(
    "mlplat_decisions",
    _TABLES,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
)
_TEXTS = sa.Table(
    "mlplat_texts",
    _TABLES,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
)
_GOALS = sa.Table(
    "mlplat_goals",
    _TABLES,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("metric", sa.Text, nullable=False),
    sa.Column("direction", sa.Text, nullable=False),
    sa.Column("target", sa.Float),
)


class Ledger:
    """Appends and reads decisions. Raises SQLAlchemy's errors: the store around it translates them."""

    def __init__(self, url: str) -> None:
        self.engine = engine_of(url)

    def make_tables(self) -> None:
        """Where they are not there. One process at a time may call this."""
        make_tables(self.engine, _TABLES)

    def append(self, entry: LedgerEntry) -> None:
        row = {
            "at_us": entry.at_us,
            "policy": entry.policy,
            "subject": entry.subject,
            "verdict": "act" if isinstance(entry.decision, Act) else "hold",
            "reason": entry.decision.reason,
            "evidence": _json(entry.decision.evidence),
            "actor": entry.actor,
            "details": _json(entry.details),
        }
        with self.engine.begin() as connection:
            connection.execute(sa.insert(_DECISIONS).values(row))

    def read(self, subject: str | None = None) -> list[LedgerEntry]:
        query = sa.select(_DECISIONS).order_by(_DECISIONS.c.id)
        if subject is not None:
            query = query.where(_DECISIONS.c.subject == subject)
        with self.engine.connect() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def put_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        rows = [{"run_id": run_id, "name": name, "text": holdable(text)} for name, text in texts.items()]
        if rows:
            with self.engine.begin() as connection:
                connection.execute(sa.insert(_TEXTS), rows)

    def texts(self, run_id: str) -> dict[str, str]:
        query = sa.select(_TEXTS.c.name, _TEXTS.c.text).where(_TEXTS.c.run_id == run_id)
        with self.engine.connect() as connection:
            return {row.name: row.text for row in connection.execute(query)}

    def put_goal(self, name: str, goal: Goal) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.delete(_GOALS).where(_GOALS.c.name == name))
            connection.execute(sa.insert(_GOALS).values(name=name, **asdict(goal)))

    def goal(self, name: str) -> Goal | None:
        query = sa.select(_GOALS).where(_GOALS.c.name == name)
        with self.engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else Goal(metric=row.metric, direction=row.direction, target=row.target)

    def close(self) -> None:
        self.engine.dispose()


def _json(value: Any) -> str:
    return json.dumps(plain(value), allow_nan=False)


def _entry(row: sa.Row[Any]) -> LedgerEntry:
    verdict: type[Act] | type[Hold] = Act if row.verdict == "act" else Hold
    decision: Decision = verdict(reason=row.reason, evidence=json.loads(row.evidence))
    return LedgerEntry(
        at_us=row.at_us,
        policy=row.policy,
        subject=row.subject,
        decision=decision,
        actor=row.actor,
        details=json.loads(row.details),
    )
