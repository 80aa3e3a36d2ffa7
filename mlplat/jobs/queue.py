"""The queue of a home as its users see it: jobs go in, slots come out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, Unpack
from uuid import uuid4

from mlplat.clock import US_PER_S, Clock
from mlplat.errors import InvalidInput, Unavailable
from mlplat.jobs import demand as demands
from mlplat.jobs import tables
from mlplat.jobs.code import keep
from mlplat.jobs.demand import Demand
from mlplat.jobs.egress import GB
from mlplat.jobs.job import PRIORITIES, Job, Tenant
from mlplat.jobs.lease import Cluster, GaveWay, Lease
from mlplat.jobs.record import HOLDS, Command, Held, Outcome, Record, Report, Request
from mlplat.jobs.rules import POOL, Rules

if TYPE_CHECKING:
    import polars as pl

    from mlplat.jobs.ledger import JobLedger

Result = TypeVar("Result")


class Options(TypedDict, total=False):
    """What a job may say of itself. `priority` is one of production, normal, explore and idle. What is not `preemptible` keeps
    its slots until it ends; what is keeps them for `min_run_s` seconds, but from what has a right that does not wait. `data_gb`
    are the GB (1e9 bytes) that it reads, by place: a cluster that buys machines counts what it costs to bring them."""

    name: str
    priority: str
    pool: str
    preemptible: bool
    min_run_s: float
    data_gb: Mapping[str, float]


class FindCluster(Protocol):
    def __call__(self, *, start: bool) -> Cluster | None:
        """The cluster that the queue runs on. None where none runs, unless one is to be started."""


class Jobs:
    """Use it through `platform.jobs`. Times are UTC."""

    def __init__(
        self,
        ledger: Callable[[], JobLedger],
        cluster: FindCluster,
        *,
        tenant: str,
        clock: Clock,
        code: Path | None = None,
    ) -> None:
        """`code`: where folders of commands are kept, if this process runs in one that does not last."""
        self._open_ledger, self._find_cluster, self.tenant, self._clock = ledger, cluster, tenant, clock
        self._code = code
        self._opened: JobLedger | None = None
        self._pools: frozenset[str] = frozenset()
        self._found: Cluster | None = None

    def submit(
        self,
        command: Sequence[str],
        *,
        compute: str | Mapping[str, Any] = "cpu:1",
        folder: str | Path | None = None,
        env: Mapping[str, Any] | None = None,
        start: bool = True,
        **options: Unpack[Options],
    ) -> str:
        """Have the cluster run a command, once on each worker of `compute`; the job's id comes back at once. It is recorded, and
        outlives this process and the cluster. What it prints is under `jobs/ID` of the home.

        `folder` is where it runs (default: this one; inside a job that was submitted to Ray a copy of it, which the home keeps),
        `env` has "packages" (as pip takes them), an "image", and "variables". A
        worker finds MLPLAT_RANK, MLPLAT_WORLD_SIZE and MLPLAT_HOME in its environment. When others are to have its slots it gets
        SIGTERM, and SIGKILL after `Rules.grace_s` seconds; if it ended by the signal, or ever with exit code 75, it is queued
        again. Where no cluster runs for this home one is started for as long as this process lives, or, without `start`, the job
        waits for the next. Raises `InvalidInput`, and `Refused` for what can never run here.
        """
        demand = _demand(compute)
        if isinstance(command, str) or not command:
            raise InvalidInput("command: give a list, as in ['python', 'script.py']")
        name = options.setdefault("name", Path(command[0]).name)
        record = Record(
            job=self._job(demand, options), name=name, command=_command(command, self._lasting(folder), env or {})
        )
        self._queue(self._cluster() if start else self._running(), record, demand)
        return record.job.id

    def run(
        self,
        work: Callable[[Lease], Result],
        compute: str | Mapping[str, Any] | Demand,
        *,
        say: Callable[[str], None] = lambda text: None,
        queued: Callable[[str], None] = lambda job_id: None,
        **options: Unpack[Options],
    ) -> Result:
        """Wait for slots, do `work` on them in this process, and return what that does. If it raises `GaveWay`, or its slots were
        taken away, it is called again when there are some. `say` is told what it waits for, `queued` the job's id."""
        cluster, job_id = self._attach(compute, options)
        queued(job_id)
        number = 0
        try:
            while True:
                lease = self._granted(cluster, job_id, number, say)
                number, outcome = lease.number, _FAILED
                try:
                    found = work(lease)
                    outcome = "done"
                    return found
                except GaveWay:
                    outcome = "yielded"
                except Exception:
                    if lease.lasts:
                        raise
                finally:
                    lease.close()
                    cluster.report(Report(job=job_id, lease=number, outcome=outcome))
        except BaseException:
            self.cancel(job_id)  # if it waits; where it has ended this changes nothing
            raise

    @contextmanager
    def lease(
        self,
        compute: str | Mapping[str, Any] | Demand,
        *,
        say: Callable[[str], None] = lambda text: None,
        **options: Unpack[Options],
    ) -> Iterator[Lease]:
        """Wait for slots, and have them while the block runs."""
        cluster, job_id = self._attach(compute, options)
        try:
            lease, outcome = self._granted(cluster, job_id, 0, say), _FAILED
            try:
                yield lease
                outcome = "done"
            finally:
                lease.close()
                cluster.report(Report(job=job_id, lease=lease.number, outcome=outcome))
        except BaseException:
            self.cancel(job_id)  # if it waits; where it has ended this changes nothing
            raise

    def start(self) -> None:
        """Have the queue go on. Whoever submits a job does that; this is for a new cluster, with the jobs of the one before."""
        self._cluster().look()

    def runs(self) -> bool:
        """Whether there is a cluster for the queue now, in this process or to be joined."""
        return self._running() is not None

    def cancel(self, job_id: str) -> None:
        """It is asked to stop if it runs. `NotFound` if there is no such job; one that has ended stays as it is."""
        self._ask(Request(job=job_id, priority=None))

    def reprioritise(self, job_id: str, priority: str) -> None:
        """`NotFound` if there is no such job."""
        self._ask(Request(job=job_id, priority=_priority(priority)))

    def get(self, job_id: str) -> dict[str, Any]:
        """What there is to know of a job; `NotFound` if there is none. `nodes` are those that it has now, by Ray's ids.
        `starts` is when one that waits may start: an estimate, by what jobs like those before it have taken; None where nothing
        is known."""
        ledger, record = self._ledger, self._ledger.record(job_id)
        at_us = self._estimates().get(job_id) if record.state == "queued" else None
        nodes = [node for node, _ in record.placed]
        return {**tables.row(record, ledger.waits()), "nodes": nodes, "starts": tables.time(at_us)}

    def list(self, *, ended: int = 100) -> pl.DataFrame:
        """All jobs that have not ended, and the last that have, in the order of submission. `reason` is why one waits, was
        stopped or failed."""
        waits = self._ledger.waits()
        return tables.jobs(self._ledger.records(ended=ended), waits)

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Until a job has ended; `Unavailable` if it has not in time."""
        cluster, known = self._cluster(), None
        deadline_s = None if timeout_s is None else self._clock.elapsed_s() + timeout_s
        while not self._ledger.record(job_id).ended:
            if deadline_s is not None and self._clock.elapsed_s() > deadline_s:
                raise Unavailable(
                    f"the job {job_id} has not ended after {timeout_s:g} s: it is {self.get(job_id)['state']}"
                )
            known = cluster.standing(job_id, known)
        return self.get(job_id)

    def usage(self, *, since: datetime | None = None) -> pl.DataFrame:
        """Hours of each resource that tenants have had, of what is given back."""
        since_us = 0 if since is None else round(since.timestamp() * US_PER_S)
        return tables.usage(self._ledger.held(since_us))

    def held(self, *, since: datetime | None = None) -> pl.DataFrame:
        """Who held what from when to when; what is held now until now."""
        since_us = 0 if since is None else round(since.timestamp() * US_PER_S)
        now_us = self._clock.now_us()
        running = [Held.of(one, ended_us=now_us) for one in self._ledger.records() if one.state in HOLDS]
        return tables.held((*self._ledger.held(since_us), *running))

    def draw(self, path: str | Path, *, since: datetime | None = None, title: str = "") -> Path:
        """A picture of `held`, as .png, .svg or .pdf."""
        from mlplat.jobs.picture import draw

        return draw(self.held(since=since), path, title=title)

    def rules(self) -> Rules:
        """Who shares, what is shared, and how."""
        return self._ledger.rules()

    def set_rules(self, rules: Rules) -> None:
        """They count from the next look of the controller, within a second. The tenants are replaced too."""
        self._ledger.set_rules(rules)

    def set_tenant(self, tenant: Tenant) -> None:
        """One that is there is replaced. Who is not set has weight 1, no quota and no limit."""
        known = self._ledger.rules().pools
        for pool in {*tenant.quota, *tenant.limit} - known.keys():
            raise InvalidInput(f"tenant {tenant.name!r}: pool {pool!r} is not one of {', '.join(known)}")
        self._ledger.set_tenant(tenant)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    @property
    def _ledger(self) -> JobLedger:
        if self._opened is None:
            self._opened = self._open_ledger()
        return self._opened

    def _estimates(self) -> dict[str, int]:
        from mlplat.jobs.estimate import starts

        ledger, now_us = self._ledger, self._clock.now_us()
        since_us = now_us - _HISTORY_S * US_PER_S
        return starts(
            ledger.records(), ledger.held(since_us), ledger.pools(), ledger.rules(), ledger.usage(), now_us=now_us
        )

    def _running(self) -> Cluster | None:
        """The cluster, if one runs."""
        if self._found is None:
            self._found = self._find_cluster(start=False)
        return self._found

    def _cluster(self) -> Cluster:
        """The cluster; one is started if none runs."""
        if self._found is None:
            self._found = self._find_cluster(start=True)
        assert self._found is not None
        return self._found

    def _lasting(self, folder: str | Path | None) -> str:
        here = os.path.abspath(folder or ".")
        return (
            here
            if self._code is None or not Path(here).is_relative_to(Path.cwd())
            else str(keep(Path(here), self._code))
        )

    def _ask(self, request: Request) -> None:
        self._ledger.request(request)
        if (cluster := self._running()) is not None:
            cluster.look()

    def _attach(self, compute: str | Mapping[str, Any] | Demand, options: Options) -> tuple[Cluster, str]:
        """A job of this process."""
        demand, cluster = _demand(compute), self._cluster()
        record = Record(job=self._job(demand, options), name=options.get("name", "work"), driver=cluster.driver)
        self._queue(cluster, record, demand)
        return cluster, record.job.id

    def _queue(self, cluster: Cluster | None, record: Record, demand: Demand) -> None:
        if cluster is not None:
            demands.check(demand, cluster.total())
        self._ledger.submit([record])
        if cluster is not None:
            cluster.look()

    def _job(self, demand: Demand, options: Options) -> Job:
        pool = options.get("pool", POOL)
        if pool not in self._pools:  # asked again only then: it costs a third of a submission
            self._pools = frozenset(self._ledger.rules().pools)
        if pool not in self._pools:
            raise InvalidInput(f"pool={pool!r} is not one of {', '.join(sorted(self._pools))}")
        return Job(
            id=uuid4().hex[:12],
            tenant=self.tenant,
            pool=pool,
            submitted_us=self._clock.now_us(),
            each=demand.resources,
            count=demand.count,
            least=demand.least,
            labels=demand.labels,
            priority=_priority(options.get("priority", "normal")),
            preemptible=options.get("preemptible", True),
            min_run_s=options.get("min_run_s", 60.0),
            data=_data(options.get("data_gb", {})),
        )

    def _granted(self, cluster: Cluster, job_id: str, after: int, say: Callable[[str], None]) -> Lease:
        """Slots of a later lease than `after`."""
        known, said = None, ""
        while True:
            now = cluster.standing(job_id, known)
            if now is None:
                record = self._ledger.record(job_id)
                if record.ended:
                    raise Unavailable(f"the job {job_id} gets no slots: {record.reason}")
            elif now.state == "running" and now.lease > after and now.group_id is not None:
                return Lease(cluster, job_id, now)
            waits = cluster.trouble() if now is None else now.waits
            if waits and waits != said:
                say(f"waits for slots: {waits}")
                said = waits
            known = now


_FAILED: Outcome = "failed"
_HISTORY_S = 30 * 86_400


def _demand(compute: str | Mapping[str, Any] | Demand) -> Demand:
    demand = compute if isinstance(compute, Demand) else Demand.parse(compute)
    if demand.in_process:
        raise InvalidInput(f"compute={compute!r} asks for no slots; write cpu:1 for one core")
    return demand


def _priority(word: str) -> int:
    if word not in PRIORITIES:
        raise InvalidInput(f"priority={word!r} is not one of {', '.join(PRIORITIES)}")
    return PRIORITIES[word]


def _data(amounts: Mapping[str, float]) -> tuple[tuple[str, int], ...]:
    for place, amount in amounts.items():
        if not place or isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
            raise InvalidInput(
                f"data_gb={dict(amounts)!r}: give each place a number of GB from 0, as in {{'onprem': 800}}"
            )
    return tuple(sorted((place, round(amount * GB)) for place, amount in amounts.items() if amount))


def _command(command: Sequence[str], folder: str, env: Mapping[str, Any]) -> Command:
    if unknown := env.keys() - {"packages", "image", "variables"}:
        raise InvalidInput(f"env: {', '.join(sorted(unknown))}: it has packages, image and variables")
    return Command(
        arguments=tuple(map(str, command)),
        folder=folder,
        variables=tuple((str(name), str(value)) for name, value in env.get("variables", {}).items()),
        packages=tuple(env.get("packages", ())),
        image=env.get("image"),
    )
