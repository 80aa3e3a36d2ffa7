"""What becomes of all jobs now, given what is seen of the cluster: a pure function, and the same one whether the controller has
run for a month or has just been started again. What it decides is written down before any of it is done; what was not done is
found missing the next time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mlplat.clock import US_PER_S
from mlplat.decision import Hold
from mlplat.jobs.burst import Bursting, beside, bought, burst, own
from mlplat.jobs.cloud import Cloud
from mlplat.jobs.job import PRIORITIES, Amounts, Job, Lease, Node, Pool
from mlplat.jobs.plan import Plan, Snapshot, plan
from mlplat.jobs.record import HOLDS, Held, Outcome, Record
from mlplat.jobs.rules import Rules
from mlplat.jobs.shares import shares_of
from mlplat.jobs.usage import Usage

Group = Literal["pending", "ready", "broken"]
"""Of a placement group: it waits for room, it has it, or a node of it is gone."""

_OUTSIDE = "outside of the queue"
LEAVE_S = 10.0
"""What was sent to bought machines that are not free may have own ones again, so long after what is on them had to give way."""
PLACE_S = 10.0
"""Slots that the plan took for free are in use by something else where their group waits longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a command on a lease ended."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The cluster now. Nodes have what they have in all; `used` is what is held of it outside of the queue, and `asked` what is
    waited for there: resources, and how often. `groups` and `runs` (commands; None: it goes on) are by the names of leases.
    `cloud` is what can be bought; without it all machines are the same. Nodes that are `draining` are about to be gone."""

    pools: Sequence[Pool]
    used: Mapping[str, Amounts] = field(default_factory=dict)
    asked: Sequence[tuple[Amounts, int]] = ()
    groups: Mapping[str, Group] = field(default_factory=dict)
    runs: Mapping[str, Exit | None] = field(default_factory=dict)
    drivers: frozenset[str] = frozenset()
    cloud: Cloud | None = None
    draining: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    group: str


Effect = Place | Launch | Stop | Remove


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """`changed` and `given_back` are to be written, then `effects` to be carried out; each may be done twice. `over` is what
    tenants hold beyond their fair shares from now on, `pools` what there is for jobs, `burst` what is wanted of
    machines that can be bought (None: none can be)."""

    changed: Mapping[str, Record]
    given_back: Sequence[Held]
    effects: Sequence[Effect]
    usage: Usage
    over: Mapping[tuple[str, str], float]
    holds: Mapping[str, Hold]
    pools: Sequence[Pool]
    burst: Bursting | None = None


def turn(
    records: Mapping[str, Record],
    seen: Seen,
    rules: Rules,
    usage: Usage,
    over: Mapping[tuple[str, str], float],
    *,
    now_us: int,
) -> Turn:
    """`records` are those that have not ended, in the order of submission."""
    usage = usage.later(now_us, over)
    after, given_back = dict(records), []
    for job_id, record in records.items():
        found = _advanced(record, seen, rules, now_us)
        if found.state in {"placing", "running"} and any(node in seen.draining for node, _ in found.placed):
            found = found.asked("queued", "its machine is about to be taken away", now_us=now_us)
        if record.state == "returning" and found.state != "returning":
            given_back.append(Held.of(record, ended_us=now_us))
        after[job_id] = found
    pools = _pools(seen)
    mine, away = _planned(after, seen, pools, rules, usage, now_us)
    admits = [
        admit
        for admit in (*mine.admits, *away.admits)
        if admit.job.id in after and after[admit.job.id].state == "queued"
    ]  # the others are Ray's to place, or do not hold what they had yet
    for admit in admits:
        after[admit.job.id] = after[admit.job.id].given(admit.placed, backfill=admit.backfill, now_us=now_us)
    _stop(mine, away, after, rules, now_us)
    begun = [after[admit.job.id].held() for admit in mine.admits if admit.job.id in after]
    for by, share in shares_of(own(pools) if seen.cloud else pools, rules.tenants, begun, rules.policy).items():
        usage = usage.begun(by, share * rules.policy.entry_s)
    return Turn(
        changed={job_id: record for job_id, record in after.items() if record != records[job_id]},
        given_back=given_back,
        effects=list(_effects(after.values(), seen)),
        usage=usage,
        over=mine.over,
        holds={**mine.holds, **away.holds},
        pools=pools,
        burst=None if seen.cloud is None else away,
    )


def _planned(
    records: Mapping[str, Record], seen: Seen, pools: Sequence[Pool], rules: Rules, usage: Usage, now_us: int
) -> tuple[Plan, Bursting]:
    """For own machines, and then for bought ones."""
    leases = [record.held() for record in records.values() if record.state in HOLDS]
    there = bought(pools) if seen.cloud else ()
    in_cloud = {node.id for pool in there for node in pool.nodes}
    away: list[Lease] = []
    near: list[Lease] = []
    for lease in leases:
        (away if any(node in in_cloud for node, _ in lease.placed) else near).append(lease)
    mine = Snapshot(
        pools=own(pools) if seen.cloud else pools,
        tenants=beside(rules.tenants, away),
        leases=tuple(near),
        waiting=(
            *_outside(seen, rules),
            *(one.job for one in records.values() if one.state == "queued" and not one.left_us),
        ),
        usage=usage.seconds,
    )
    found = plan(mine, rules.policy, now_us=now_us)
    if seen.cloud is None:
        return found, Bursting()
    leaving = [record.job for record in records.values() if record.left_us]
    waited_us = {job_id: record.waited(now_us) for job_id, record in records.items()}
    return found, burst(seen.cloud, mine, found, there, away, waited_us, leaving, rules, now_us=now_us)


def _stop(mine: Plan, away: Bursting, after: dict[str, Record], rules: Rules, now_us: int) -> None:
    """Who gives way to others, goes back to own machines or leaves them; and who left them in vain may have them again."""
    for evict in (*mine.evictions, *away.evictions):
        whom = f"{evict.by.id} of {evict.by.tenant!r}" if evict.by.id in after else "what is outside of the queue"
        reason, job_id = f"stopped for {whom}: {evict.reason}", evict.lease.job.id
        after[job_id] = after[job_id].asked("queued", reason, now_us=now_us)
    for lease in away.back:
        reason, job_id = away.why or "it goes back to own machines, which are free for it", lease.job.id
        after[job_id] = after[job_id].asked("queued", reason, now_us=now_us)
    for lease in away.sent:
        reason, job_id = "it makes room on own machines for a larger job, and goes to bought ones", lease.job.id
        after[job_id] = replace(after[job_id].asked("queued", reason, now_us=now_us), left_us=now_us)
    too_long_us = (rules.grace_s + LEAVE_S) * US_PER_S
    for job_id, record in after.items():
        if record.state == "queued" and record.left_us and now_us - record.left_us > too_long_us:
            after[job_id] = replace(record, left_us=0)


def _advanced(record: Record, seen: Seen, rules: Rules, now_us: int) -> Record:
    group = seen.groups.get(record.group)
    if record.state == "returning":
        return record if group is not None else record.over(record.then, record.reason, now_us=now_us)
    if not record.ended and record.driver and record.driver not in seen.drivers:
        gone = "the process that asked for it is gone"
        return (
            record.over("failed", gone, now_us=now_us) if record.state == "queued" else record.returns("failed", gone)
        )
    if record.state == "placing":
        if group == "ready":
            return record.runs()
        late = now_us - record.started_us > PLACE_S * US_PER_S
        if group == "broken" or late:
            return record.returns("queued", "its slots were not free after all" if late else "a node of it is gone")
        return record
    if record.state in {"running", "stopping"}:
        if group != "ready":
            return record.returns(record.then, record.reason if record.asked_us else "a node of it is gone")
        ended = seen.runs.get(record.group)
        if ended is not None:
            return record.reported(record.lease, ended.outcome, ended.reason)
        if record.state == "stopping" and now_us - record.asked_us >= rules.grace_s * US_PER_S:
            hard = f"{record.reason}; it did not stop within {rules.grace_s:g} s and was stopped hard"
            return record.returns(record.then, hard)
    return record


def _effects(records: Iterable[Record], seen: Seen) -> Iterable[Effect]:
    kept = set()
    for record in records:
        if record.state in {"placing", "running", "stopping"}:
            kept.add(record.group)
        if record.state == "placing" and record.group not in seen.groups:
            yield Place(record=record)
        if record.command is not None and record.group not in seen.runs and record.state in {"running", "stopping"}:
            yield Launch(record=record)
        if record.command is not None and record.state == "stopping":
            yield Stop(record=record)
    yield from (Remove(group=group) for group in seen.groups if group not in kept)


def _outside(seen: Seen, rules: Rules) -> Iterator[Job]:
    """What is waited for outside of the queue, as jobs that come first, as far as that is reserved: so room is made for it, and
    given to nobody else until it is there."""
    for pool in seen.pools:
        left = dict(rules.reserved.get(pool.name, {}))
        for node in pool.nodes:
            for name, amount in seen.used.get(node.id, {}).items():
                left[name] = left.get(name, 0.0) - amount
        for number, (each, count) in enumerate(seen.asked):
            for one in range(count):
                if any(left.get(name, 0.0) < amount - 1e-9 for name, amount in each.items()):
                    break
                left |= {name: left[name] - amount for name, amount in each.items()}
                yield Job(
                    id=f"{_OUTSIDE}.{number}.{one}",
                    tenant=_OUTSIDE,
                    pool=pool.name,
                    submitted_us=0,
                    each=tuple(sorted(each.items())),
                    priority=max(rules.policy.over_fairness, PRIORITIES["production"]),
                    preemptible=False,
                )


def _pools(seen: Seen) -> tuple[Pool, ...]:
    """With what is there for jobs."""

    def stays(pool: Pool) -> Iterator[Node]:
        return (node for node in pool.nodes if node.id not in seen.draining)

    def left(node: Node) -> Node:
        used = seen.used.get(node.id)
        if not used:
            return node
        return replace(node, total={name: max(0.0, has - used.get(name, 0.0)) for name, has in node.total.items()})

    return tuple(replace(pool, nodes=tuple(map(left, stays(pool)))) for pool in seen.pools)
