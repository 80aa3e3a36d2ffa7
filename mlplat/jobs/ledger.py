"""Jobs, what they held, and what operators have set, in the database of the metadata. Whoever opens the home may submit and ask;
one controller at a time, the leader, changes what becomes of jobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mlplat.clock import US_PER_S
from mlplat.errors import Conflict, unknown
from mlplat.jobs.job import Node, Pool, Tenant
from mlplat.jobs.record import Held, Record, Request
from mlplat.jobs.rules import Rules
from mlplat.jobs.usage import Usage
from mlplat.metadata.database import engine_of, is_sqlite, make_tables, translated
from mlplat.metadata.lock import exclusive, exclusive_in

LEAD_S = 15.0
"""Another cluster may lead when the one that led has been silent for so long."""

_TABLES = sa.MetaData()
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_JOBS = sa.Table(
    "mlplat_jobs",
    _TABLES,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("taken", sa.Boolean, nullable=False, index=True),
    sa.Column("record", sa.Text, nullable=False),
)
_REQUESTS = sa.Table(
    "mlplat_job_requests",
    _TABLES,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer),
)
_HELD = sa.Table(
    "mlplat_job_leases",
    _TABLES,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("ended_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("held", sa.Text, nullable=False),
)
_SETTINGS = sa.Table(
    "mlplat_job_settings",
    _TABLES,
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_LEAD = sa.Table(
    "mlplat_job_lead",
    _TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
)
_RULES, _TENANT = "rules", "tenant:"
_USAGE, _WAITS, _POOLS = "usage", "waits", "pools"
_LEADERS = (_USAGE, _WAITS, _POOLS)


class Deposed(Conflict):
    """Another controller leads."""


class JobLedger:
    """Raises `Unavailable` where the database does not answer. For several threads and processes."""

    def __init__(self, url: str, lock: Path) -> None:
        """`lock` is a file for those who make the tables at the same time, where the database has no locks."""
        with translated():
            self._engine = engine_of(url)
            there = sa.inspect(self._engine).has_table(_LEAD.name)
            alone = exclusive(lock) if is_sqlite(url) else exclusive_in(self._engine)
            with nullcontext() if there else alone:
                if not there:
                    make_tables(self._engine, _TABLES)

    def close(self) -> None:
        self._engine.dispose()

    def submit(self, records: Sequence[Record]) -> None:
        """Durable when it returns, all of them or none. Those that are there already stay as they are."""
        rows = [{"id": r.job.id, "state": r.state, "taken": False, "record": _text(r.to_json())} for r in records]
        with translated():
            try:
                with self._engine.begin() as connection:
                    connection.execute(sa.insert(_JOBS), rows)
            except IntegrityError:  # the answer to an earlier call was lost on its way
                known = self._ids([r.job.id for r in records])
                with self._engine.begin() as connection:
                    for row in rows:
                        if row["id"] not in known:
                            connection.execute(sa.insert(_JOBS), row)

    def _ids(self, ids: Iterable[str]) -> set[str]:
        with self._engine.connect() as connection:
            return set(connection.execute(sa.select(_JOBS.c.id).where(_JOBS.c.id.in_(list(ids)))).scalars())

    def request(self, request: Request) -> None:
        """For the leader. `NotFound` if there is no such job."""
        self.record(request.job)
        with translated(), self._engine.begin() as connection:
            connection.execute(sa.insert(_REQUESTS).values(job=request.job, priority=request.priority))

    def record(self, job_id: str) -> Record:
        """`NotFound`, with the near ids, if there is none."""
        with translated(), self._engine.connect() as connection:
            found = connection.execute(sa.select(_JOBS.c.record).where(_JOBS.c.id == job_id)).scalar()
            if found is None:
                raise unknown("job", job_id, connection.execute(_NEWEST).scalars())
        return Record.of_json(json.loads(found))

    def records(self, *, ended: int = 0) -> list[Record]:
        """Those that have not ended, in the order of submission, after the last `ended` that have."""
        query = sa.select(_JOBS.c.record).where(_JOBS.c.state.not_in(_ENDED)).order_by(_JOBS.c.number)
        past = sa.select(_JOBS.c.record).where(_JOBS.c.state.in_(_ENDED)).order_by(_JOBS.c.number.desc()).limit(ended)
        with translated(), self._engine.connect() as connection:
            found = [*reversed(connection.execute(past).scalars().all())] if ended else []
            return [Record.of_json(json.loads(one)) for one in (*found, *connection.execute(query).scalars())]

    def held(self, since_us: int = 0) -> list[Held]:
        """What was held and is given back, by when; those that ended since."""
        query = sa.select(_HELD.c.held).where(_HELD.c.ended_us > since_us).order_by(_HELD.c.number)
        with translated(), self._engine.connect() as connection:
            return [Held.of_json(json.loads(one)) for one in connection.execute(query).scalars()]

    def rules(self) -> Rules:
        with translated(), self._engine.connect() as connection:
            rows = connection.execute(sa.select(_SETTINGS).where(_SETTINGS.c.name.not_in(_LEADERS))).all()
        found = {row.name: json.loads(row.value) for row in rows}
        tenants = {
            name.removeprefix(_TENANT): Tenant(**value)
            for name, value in sorted(found.items())
            if name.startswith(_TENANT)
        }
        return Rules.of_json(found.get(_RULES, {}), tenants)

    def set_rules(self, rules: Rules) -> None:
        """Its tenants take the place of those that are there."""
        wanted = {_RULES: rules.to_json(), **{_TENANT + name: asdict(one) for name, one in rules.tenants.items()}}
        with translated(), self._engine.begin() as connection:
            connection.execute(sa.delete(_SETTINGS).where(_SETTINGS.c.name.not_in(_LEADERS)))
            connection.execute(sa.insert(_SETTINGS), [{"name": n, "value": _text(v)} for n, v in wanted.items()])

    def set_tenant(self, tenant: Tenant) -> None:
        with translated(), self._engine.begin() as connection:
            _put(connection, _TENANT + tenant.name, asdict(tenant))

    def usage(self) -> Usage:
        said = self._said(_USAGE)
        if said is None:
            return Usage()
        seconds = {(pool, tenant): s for pool, tenant, s in said["seconds"]}
        return Usage(half_life_s=said["half_life_s"], at_us=said["at_us"], seconds=seconds)

    def waits(self) -> dict[str, str]:
        """Why jobs wait, by their group, as of the last look of the leader."""
        return self._said(_WAITS) or {}

    def pools(self) -> tuple[Pool, ...]:
        """What there is for jobs, as of the last look of the leader."""
        return tuple(
            Pool(name=name, nodes=tuple(Node(**node) for node in nodes))
            for name, nodes in (self._said(_POOLS) or {}).items()
        )

    def _said(self, name: str) -> Any:
        with translated(), self._engine.connect() as connection:
            found = connection.execute(sa.select(_SETTINGS.c.value).where(_SETTINGS.c.name == name)).scalar()
        return None if found is None else json.loads(found)

    def lead(self, cluster: str, *, now_us: int) -> int:
        """The epoch of a new leader: from now on those before it can write nothing. `Conflict` while the controller of another
        cluster leads."""
        with translated(), self._engine.begin() as connection:
            _lock(connection)
            row = connection.execute(sa.select(_LEAD)).one()
            silent_s = (now_us - row.at_us) / US_PER_S
            if row.cluster not in {"", cluster} and 0 <= silent_s < LEAD_S:
                raise Conflict(
                    f"the jobs of this home run on another cluster, which was heard {silent_s:.0f} s ago: join or end that one"
                )
            values = {"epoch": row.epoch + 1, "cluster": cluster, "at_us": now_us}
            connection.execute(sa.update(_LEAD).values(values))
            return int(row.epoch) + 1

    def resign(self, epoch: int) -> None:
        """So that another cluster need not wait."""
        with translated(), self._engine.begin() as connection:
            connection.execute(sa.update(_LEAD).where(_LEAD.c.epoch == epoch).values(cluster=""))

    def take(self) -> tuple[list[Record], list[Request]]:
        """What was submitted and asked for since. It comes again until it was written by `write`."""
        new = sa.select(_JOBS.c.record).where(_JOBS.c.taken.is_(False)).order_by(_JOBS.c.number)
        with translated(), self._engine.connect() as connection:
            records = [Record.of_json(json.loads(one)) for one in connection.execute(new).scalars()]
            rows = connection.execute(sa.select(_REQUESTS).order_by(_REQUESTS.c.number)).all()
        return records, [Request(job=row.job, priority=row.priority, number=row.number) for row in rows]

    def write(
        self,
        epoch: int,
        *,
        now_us: int,
        changed: Iterable[Record] = (),
        taken: Iterable[Record] = (),
        done: Sequence[Request] = (),
        given_back: Sequence[Held] = (),
        usage: Usage | None = None,
        waits: Mapping[str, str] | None = None,
        pools: Sequence[Pool] | None = None,
    ) -> None:
        """All of it or nothing. `Deposed` if another controller leads since."""
        with translated(), self._engine.begin() as connection:
            mine = connection.execute(sa.update(_LEAD).where(_LEAD.c.epoch == epoch).values(at_us=now_us))
            if mine.rowcount != 1:
                raise Deposed("another controller leads the jobs of this home")
            if rows := [{"job": r.job.id, "to": r.state, "said": _text(r.to_json())} for r in changed]:
                connection.execute(_CHANGE, rows)
            if new := [{"job": record.job.id} for record in taken]:
                connection.execute(_TAKE, new)
            if done:
                connection.execute(sa.delete(_REQUESTS).where(_REQUESTS.c.number.in_([r.number for r in done])))
            if given_back:
                spans = [{"ended_us": held.ended_us, "held": _text(asdict(held))} for held in given_back]
                connection.execute(sa.insert(_HELD), spans)
            if usage is not None:
                seconds = [[pool, tenant, s] for (pool, tenant), s in usage.seconds.items()]
                _put(connection, _USAGE, {**asdict(usage), "seconds": seconds})
            if waits is not None:
                _put(connection, _WAITS, waits)
            if pools is not None:
                _put(connection, _POOLS, {pool.name: [asdict(node) for node in pool.nodes] for pool in pools})


_ENDED = ("done", "failed", "cancelled")
_NEWEST = sa.select(_JOBS.c.id).order_by(_JOBS.c.number.desc()).limit(1_000)
_CHANGE = (
    sa.update(_JOBS)
    .where(_JOBS.c.id == sa.bindparam("job"))
    .values(state=sa.bindparam("to"), record=sa.bindparam("said"), taken=True)
)
_TAKE = sa.update(_JOBS).where(_JOBS.c.id == sa.bindparam("job")).values(taken=True)


def _lock(connection: sa.Connection) -> None:
    """The row of the leader is there, and nobody else changes it before this ends."""
    held = connection.execute(sa.update(_LEAD).values(id=1))
    if held.rowcount == 0:
        connection.execute(sa.insert(_LEAD).values(id=1, epoch=0, cluster="", at_us=0))


def _put(connection: sa.Connection, name: str, value: Mapping[str, Any]) -> None:
    connection.execute(sa.delete(_SETTINGS).where(_SETTINGS.c.name == name))
    connection.execute(sa.insert(_SETTINGS).values(name=name, value=_text(value)))


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
