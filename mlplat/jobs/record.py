"""A job as the ledger knows it: where it stands, and what each thing that happens to it makes of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mlplat.clock import US_PER_S
from mlplat.jobs.job import Job, Lease
from mlplat.jobs.room import Placed

State = Literal["queued", "placing", "running", "stopping", "returning", "done", "failed", "cancelled"]
HOLDS = frozenset({"placing", "running", "stopping", "returning"})
ENDED = frozenset({"done", "failed", "cancelled"})
Next = Literal["queued", "done", "failed", "cancelled"]
Outcome = Literal["done", "failed", "yielded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the cluster runs for a job, once on each bundle: arguments as a shell would pass them, in a folder, with variables and
    packages of its own."""

    arguments: tuple[str, ...]
    folder: str
    variables: tuple[tuple[str, str], ...] = ()
    packages: tuple[str, ...] = ()
    image: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`command` is what runs on the slots; without one they are for the process `driver`, which waits for them and goes with
    its cluster. `lease` counts how often it was given slots, since `started_us` these; `then` is what it is once they are back.
    It waits since `queued_us` (0: since it was submitted), and had waited for `waited_us` before. Since `left_us` it
    makes room on own machines, and there are bought ones for it (0: it does not)."""

    job: Job
    name: str
    command: Command | None = None
    driver: str = ""
    state: State = "queued"
    lease: int = 0
    placed: Placed = ()
    backfill: bool = False
    started_us: int = 0
    asked_us: int = 0
    then: Next = "queued"
    reason: str = ""
    ended_us: int = 0
    queued_us: int = 0
    waited_us: int = 0
    left_us: int = 0

    @property
    def group(self) -> str:
        """The name of its lease, and of what is made for it on the cluster."""
        return f"{self.job.id}.{self.lease}"

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def waited(self, now_us: int) -> int:
        """How long it has waited for slots in all, in microseconds."""
        if self.state != "queued":
            return self.waited_us
        return self.waited_us + max(0, now_us - (self.queued_us or self.job.submitted_us))

    def held(self) -> Lease:
        """As the plan knows it."""
        return Lease(
            job=self.job,
            placed=self.placed,
            started_us=self.started_us,
            draining=self.state in {"stopping", "returning"},
            backfill=self.backfill,
        )

    def given(self, placed: Placed, *, backfill: bool, now_us: int) -> Record:
        return replace(
            self,
            state="placing",
            lease=self.lease + 1,
            waited_us=self.waited(now_us),
            placed=placed,
            backfill=backfill,
            started_us=now_us,
            asked_us=0,
            then="queued",
            reason="",
            left_us=0,
        )

    def runs(self) -> Record:
        return replace(self, state="running")

    def asked(self, then: Next, reason: str, *, now_us: int) -> Record:
        """To stop. Where nothing runs it has stopped already. To be cancelled is more than to be preempted."""
        if self.ended or (self.state in {"stopping", "returning"} and (then == "queued" or self.then != "queued")):
            return self
        if self.state == "queued":
            return self.over(then, reason, now_us=now_us)
        if self.state == "placing":
            return self.returns(then, reason)
        if self.state == "returning":
            return replace(self, then=then, reason=reason)
        return replace(self, state="stopping", then=then, reason=reason, asked_us=self.asked_us or now_us)

    def reported(self, lease: int, outcome: Outcome, reason: str) -> Record:
        """How its work on a lease ended, said by who did it. Said again, or too late, it changes nothing."""
        if lease != self.lease or self.state not in {"running", "stopping"}:
            return self
        if outcome == "yielded":
            return self.returns(self.then, self.reason or "it gave its slots back")
        return self.returns(outcome, reason)

    def returns(self, then: Next, reason: str) -> Record:
        """Nothing of it may go on: its slots are taken away."""
        return replace(self, state="returning", then=then, reason=reason)

    def over(self, then: Next, reason: str, *, now_us: int) -> Record:
        """It holds nothing (any more)."""
        if then == "queued":
            return replace(self, state=then, then=then, placed=(), reason=reason, ended_us=0, queued_us=now_us)
        return replace(self, state=then, then="queued", placed=(), reason=reason, ended_us=now_us)

    def to_json(self) -> dict[str, Any]:
        said = asdict(self)
        for name in ("group", "kind"):  # they follow from the rest
            del said["job"][name]
        return said

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> Record:
        job = {**said["job"], **{name: _pairs(said["job"].get(name, ())) for name in ("each", "labels", "data")}}
        command = said["command"]
        if command is not None:
            command = Command(
                arguments=tuple(command["arguments"]),
                folder=command["folder"],
                variables=_pairs(command["variables"]),
                packages=tuple(command["packages"]),
                image=command["image"],
            )
        return cls(**{**said, "job": Job(**job), "command": command, "placed": _pairs(said["placed"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """That a job held slots for a time. `stopped`: it had not ended when they were taken back. `reason` is why they were."""

    job: str
    name: str
    tenant: str
    pool: str
    each: tuple[tuple[str, float], ...]
    placed: Placed
    began_us: int
    ended_us: int
    stopped: bool
    reason: str = ""

    @classmethod
    def of(cls, record: Record, *, ended_us: int) -> Held:
        job = record.job
        return cls(
            job=job.id,
            name=record.name,
            tenant=job.tenant,
            pool=job.pool,
            each=job.each,
            placed=record.placed,
            began_us=record.started_us,
            ended_us=ended_us,
            stopped=record.state == "returning" and record.then == "queued",
            reason=record.reason,
        )

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> Held:
        return cls(**{**said, "each": _pairs(said["each"]), "placed": _pairs(said["placed"])})

    def hours(self) -> dict[str, float]:
        """Of each resource."""
        bundles = sum(count for _, count in self.placed)
        hours = max(0, self.ended_us - self.began_us) / US_PER_S / 3_600
        return {name: amount * bundles * hours for name, amount in self.each}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the work on a lease ended, from the process that did it."""

    job: str
    lease: int
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody wants of a job that is there: another `priority`, or (None) that it is cancelled."""

    job: str
    priority: int | None
    number: int = 0


def _pairs(said: Any) -> tuple[Any, ...]:
    return tuple(tuple(pair) for pair in said)
