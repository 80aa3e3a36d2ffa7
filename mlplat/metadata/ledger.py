"""The ledger of decisions as one SQL table, beside MLflow's own in the same database."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from mlplat.decision import Act, Decision, Hold
from mlplat.metadata.port import LedgerEntry
from mlplat.metadata.rules import plain

BUSY_TIMEOUT_S = 30

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


class Ledger:
    """Appends and reads decisions. Raises SQLAlchemy's errors: the store around it translates them."""

    def __init__(self, url: str) -> None:
        sqlite = url.startswith("sqlite")
        self._engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S} if sqlite else {})
        with self._engine.connect() as connection:
            if sqlite:  # kept in the file: readers of every process then never wait for a writer
                connection.execute(sa.text("PRAGMA journal_mode = WAL"))
        _TABLES.create_all(self._engine)

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
        with self._engine.begin() as connection:
            connection.execute(sa.insert(_DECISIONS).values(row))

    def read(self, subject: str | None = None) -> list[LedgerEntry]:
        query = sa.select(_DECISIONS).order_by(_DECISIONS.c.id)
        if subject is not None:
            query = query.where(_DECISIONS.c.subject == subject)
        with self._engine.connect() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def close(self) -> None:
        self._engine.dispose()


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
