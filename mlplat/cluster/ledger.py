"""Every machine that was asked for, in a database: what was bought, when it came and went, and which call asked for it. So a head
that comes back knows what an earlier one began, and the budget counts what both spent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from mlplat.cluster.budget import Bill
from mlplat.metadata.database import engine_of, make_tables, translated

State = Literal["asked", "there", "gone"]

_TABLES = sa.MetaData()
_MACHINES = sa.Table(
    "mlplat_machines",
    _TABLES,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("cluster", sa.String(128), nullable=False, index=True),
    sa.Column("launch", sa.String(64), nullable=False, index=True),
    sa.Column("site", sa.String(128), nullable=False),
    sa.Column("type", sa.String(128), nullable=False),
    sa.Column("offer", sa.String(256), nullable=False),
    sa.Column("machine", sa.String(256)),
    sa.Column("price", sa.Float, nullable=False),
    sa.Column("gpus", sa.Float, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("state", sa.String(8), nullable=False, index=True),
    sa.Column("asked_us", sa.BigInteger, nullable=False),
    sa.Column("gone_us", sa.BigInteger),
    sa.Column("reason", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`launch` is the call that asked for it: its site knows the machines of a call by that. `machine` is its name there, where
    that is known. It costs `price` per hour from `asked_us` on."""

    cluster: str
    launch: str
    site: str
    type: str
    offer: str
    price: float
    gpus: float
    asked_us: int
    tags: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    state: State = "asked"
    gone_us: int | None = None
    reason: str = ""
    number: int = 0

    @property
    def bill(self) -> Bill:
        return Bill(began_us=self.asked_us, ended_us=self.gone_us, price=self.price, gpus=self.gpus)


class MachineLedger:
    """Of one cluster. Every write is durable when it returns. Raises `Unavailable` where the database does not answer."""

    def __init__(self, where: str, cluster: str) -> None:
        """`where`: the path of a file, or a database's URL."""
        if "://" not in where:
            path = Path(where).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            where = f"sqlite:///{path.absolute()}"
        self._cluster = cluster
        with translated():
            self._engine = engine_of(where)
            make_tables(self._engine, _TABLES)

    def close(self) -> None:
        self._engine.dispose()

    def ask(self, machine: Machine, count: int) -> list[int]:
        """That so many are about to be asked for; their numbers."""
        row = _row(machine)
        with translated(), self._engine.begin() as connection:
            return [self._inserted(connection, row) for _ in range(count)]

    def adopt(self, machine: Machine) -> None:
        """One that is there, and was not known."""
        with translated(), self._engine.begin() as connection:
            self._inserted(connection, _row(machine))

    def came(self, number: int, machine: str) -> None:
        self._change([number], state="there", machine=machine)

    def went(self, numbers: Sequence[int], reason: str, now_us: int) -> None:
        self._change(numbers, state="gone", gone_us=now_us, reason=reason)

    def redate(self, numbers: Sequence[int], now_us: int) -> None:
        """They cost something from now on, not only from when a clock that was wrong said."""
        self._change(numbers, asked_us=now_us)

    def tag(self, number: int, tags: Mapping[str, str]) -> None:
        self._change([number], tags=json.dumps(dict(tags)))

    def open(self, site: str | None = None) -> list[Machine]:
        """Those that are there, or may come to be; of a site, or all."""
        there = _MACHINES.c.state != "gone"
        return self._found(there if site is None else sa.and_(there, _MACHINES.c.site == site))

    def bills(self, us: int, but: str) -> list[Bill]:
        """Of those that cost something after a moment, but those of a site."""
        c = _MACHINES.c
        costs = sa.or_(c.gone_us.is_(None), sa.and_(c.gone_us > us, c.gone_us > c.asked_us))
        asked = sa.select(c.asked_us, c.gone_us, c.price, c.gpus).where(
            c.cluster == self._cluster, costs, c.site != but
        )
        with translated(), self._engine.connect() as connection:
            found = connection.execute(asked).all()
        return [Bill(began_us=began, ended_us=ended, price=price, gpus=gpus) for began, ended, price, gpus in found]

    def since(self, us: int) -> list[Machine]:
        """Those that cost something after a moment."""
        return self._found(sa.or_(_MACHINES.c.gone_us.is_(None), _MACHINES.c.gone_us > us))

    def _found(self, which: sa.ColumnElement[bool]) -> list[Machine]:
        asked = sa.select(_MACHINES).where(_MACHINES.c.cluster == self._cluster, which).order_by(_MACHINES.c.number)
        with translated(), self._engine.connect() as connection:
            return [_machine(dict(row)) for row in connection.execute(asked).mappings()]

    def _change(self, numbers: Sequence[int], **values: Any) -> None:
        changed = sa.update(_MACHINES).where(_MACHINES.c.number.in_(list(numbers)), _MACHINES.c.state != "gone")
        with translated(), self._engine.begin() as connection:
            connection.execute(changed.values(**values))

    def _inserted(self, connection: sa.Connection, row: Mapping[str, Any]) -> int:
        found = connection.execute(sa.insert(_MACHINES).values(cluster=self._cluster, **row)).inserted_primary_key
        assert found is not None
        return int(found[0])


def _row(machine: Machine) -> dict[str, Any]:
    return {
        "launch": machine.launch,
        "site": machine.site,
        "type": machine.type,
        "offer": machine.offer,
        "machine": machine.machine,
        "price": machine.price,
        "gpus": machine.gpus,
        "tags": json.dumps(dict(machine.tags)),
        "state": machine.state,
        "asked_us": machine.asked_us,
        "gone_us": machine.gone_us,
        "reason": machine.reason,
    }


def _machine(row: Mapping[str, Any]) -> Machine:
    return Machine(**{**row, "tags": json.loads(row["tags"])})
