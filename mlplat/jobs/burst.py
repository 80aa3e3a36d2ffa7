"""When a job that waits for own machines goes to bought ones, how many of those are asked for, and when it comes back: a pure
function.

A job waits for own machines as long as its waiting budget lasts (`Cloud.wait_s`): the more of them it asks for, the longer,
because a large job in the cloud costs more. What it has waited is counted over its whole life, so that one that lost its
machine does not wait again. Then it is given bought machines that are there, or such are asked for; while they come it is still
first of all given own ones, if those are free before. A gang is never on own and bought machines at once.

Work comes back as soon as own machines are free for it: it is stopped, as for somebody with more rights, and goes on from its
checkpoint. And where a large job would go to the cloud, or is there, while small ones have own machines that it would fit on with
what is free, those are sent instead, as soon as there are bought machines for them: own machines are to be as full as they can
be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlplat.clock import US_PER_S
from mlplat.decision import Hold
from mlplat.jobs.demand import suits
from mlplat.jobs.job import Amounts, Job, Lease, Node, Pool, Tenant
from mlplat.jobs.plan import Admit, Evict, Plan, Snapshot, plan
from mlplat.jobs.room import Nodes, Placed
from mlplat.jobs.rules import Rules
from mlplat.jobs.slots import Slots, Trial

SITE, BOUGHT = "site", "cloud"
"""The label of machines that are bought."""
NODE = "ray.io/node-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Machines that can be bought: what each has, and how many there may be at a time."""

    name: str
    total: Amounts
    labels: Mapping[str, str]
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """What can be bought, and when. A job as large as all `own` machines of its pool, whether they are there now or not, waits
    `wait_s` for them, half of it half as long. `most` is how many bought machines there may be in all. If `back`, work moves
    between own and bought machines, once it has been where it is for `stay_s`."""

    kinds: tuple[Kind, ...]
    own: tuple[Kind, ...]
    most: int
    wait_s: float = 3_600.0
    back: bool = True
    stay_s: float = 300.0

    def total(self) -> dict[str, float]:
        """The most that there may be of each resource on bought machines."""
        found: dict[str, float] = {}
        for kind in self.kinds:
            for name, amount in kind.total.items():
                found[name] = found.get(name, 0.0) + amount * min(kind.most, self.most)
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> Cloud:
        kinds = {name: tuple(Kind(**kind) for kind in said[name]) for name in ("kinds", "own")}
        return cls(**{**said, **kinds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursting:
    """Jobs for which bought machines are to come are `asked`, with how many of each kind; `machines` is how many those are in
    all, beside the ones that are `busy`. `back` are leases in the cloud for which own machines are free, and `sent` those of
    own machines for which bought ones are, which are to make room for larger ones."""

    admits: tuple[Admit, ...] = ()
    evictions: tuple[Evict, ...] = ()
    holds: Mapping[str, Hold] = field(default_factory=dict)
    machines: Mapping[str, int] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    asked: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    back: tuple[Lease, ...] = ()
    sent: tuple[Lease, ...] = ()


def selector(kind: Kind, busy: Iterable[str]) -> dict[str, str]:
    """As Ray writes it: machines of a kind but these. Asked for without that, Ray takes busy machines for those that are asked
    for, and keeps as many idle ones."""
    names = ",".join(sorted(busy))
    return {**kind.labels, NODE: f"!in({names})"} if names else dict(kind.labels)


def is_bought(node: Node) -> bool:
    return node.labels.get(SITE) == BOUGHT


def own(pools: Iterable[Pool]) -> tuple[Pool, ...]:
    return tuple(replace(pool, nodes=tuple(node for node in pool.nodes if not is_bought(node))) for pool in pools)


def bought(pools: Iterable[Pool]) -> tuple[Pool, ...]:
    return tuple(replace(pool, nodes=tuple(node for node in pool.nodes if is_bought(node))) for pool in pools)


def beside(tenants: Mapping[str, Tenant], leases: Iterable[Lease]) -> dict[str, Tenant]:
    """The tenants, whose limits are less by what they hold elsewhere."""
    held: dict[tuple[str, str], dict[str, float]] = {}
    for lease in leases:
        amounts = held.setdefault((lease.job.tenant, lease.job.pool), {})
        for name, amount in lease.job.each:
            amounts[name] = amounts.get(name, 0.0) + amount * lease.size
    found = dict(tenants)
    for (name, pool), amounts in held.items():
        tenant = found.get(name)
        if tenant is not None and pool in tenant.limit:
            left = {what: max(0.0, most - amounts.get(what, 0.0)) for what, most in tenant.limit[pool].items()}
            found[name] = replace(tenant, limit={**tenant.limit, pool: left})
    return found


def burst(
    cloud: Cloud,
    mine: Snapshot,
    found: Plan,
    there: Sequence[Pool],
    leases: Sequence[Lease],
    waited_us: Mapping[str, int],
    leaving: Sequence[Job],
    rules: Rules,
    *,
    now_us: int,
) -> Bursting:
    """`mine` is the snapshot of own machines, and `found` what was planned for them; `there` are the pools' bought machines,
    which `leases` hold. `waited_us` is how long each job of the snapshot has waited in all, by its id; the others are not the
    queue's. `leaving` were sent to the cloud before, and are not there yet."""
    free = _Free(mine, found)
    given = {admit.job.id for admit in found.admits} | {evict.by.id for evict in found.evictions}
    waiting = [job for job in mine.waiting if job.id in waited_us and job.id not in given]
    all_own = own_nodes(cloud, rules)
    ready = [
        replace(job, count=job.least)
        for job in waiting
        if waited_us[job.id] >= budget_us(cloud, job, all_own.get(job.pool)) and not free.fits(job)
    ]
    back = list(_back(cloud, leases, free, now_us)) if cloud.back else []
    staying = [lease for lease in leases if lease not in back]
    swaps = _Swaps(cloud, mine, staying if cloud.back else (), ready if cloud.back else (), free, now_us)
    out = {lease.job.id: lease for lease in swaps.out}
    asking = [replace(job, count=job.least, priority=rules.policy.over_fairness) for job in leaving]
    asking += [job for job in ready if job.id not in swaps.stay]
    asking += [replace(lease.job, count=lease.size, least=lease.size) for lease in out.values()]
    pools, kinds = _with_what_can_be_bought(cloud, there, asking, rules)
    tenants = {name: replace(tenant, quota={}) for name, tenant in beside(mine.tenants, mine.leases).items()}
    asks = Snapshot(pools=pools, tenants=tenants, leases=leases, waiting=asking)
    plans = plan(asks, rules.policy, now_us=now_us)
    real = {node.id for pool in there for node in pool.nodes}
    busy = {node for lease in leases for node, _ in lease.placed if node in real}
    wanted: set[str] = set()
    gone = {job.id for job in leaving}
    admits, sent, asked = [], list(swaps.sent), {}
    for admit in plans.admits:
        nodes = {node for node, _ in admit.placed}
        if len(busy | wanted | nodes) > cloud.most or (admit.job.id in gone and not nodes <= real):
            continue
        if not nodes <= real:
            asked[admit.job.id] = Counter(kinds[node] for node in sorted(nodes))
            wanted |= nodes
            continue
        busy |= nodes
        if (lease := out.get(admit.job.id)) is not None:
            sent.append(lease)
        else:
            admits.append(admit)
    return Bursting(
        admits=tuple(admits),
        evictions=plans.evictions,
        holds=_holds(ready, asked, plans),
        machines=Counter(kinds[node] for node in sorted(wanted - busy)),
        busy=frozenset(busy),
        asked=asked,
        back=(*back, *swaps.back),
        sent=tuple(sent),
    )


def own_nodes(cloud: Cloud, rules: Rules) -> dict[str, Nodes]:
    """By pool, as if all were there."""
    nodes = [
        Node(id=f"{kind.name}#{number}", total=kind.total, labels=kind.labels)
        for kind in cloud.own
        for number in range(kind.most)
    ]
    return {pool.name: Nodes(pool.nodes) for pool in rules.divided(nodes)}


def budget_us(cloud: Cloud, job: Job, nodes: Nodes | None) -> int:
    """How long it waits for own machines. What does not fit on them at all does not."""
    shape = None if nodes is None else nodes.shape(job)
    if nodes is None or shape is None or nodes.most(shape) < job.least:
        return 0
    have = nodes.total.sum(axis=0).tolist()
    share = float(max(job.least * takes / have[column] for column, takes in shape.parts))
    return round(cloud.wait_s * share * US_PER_S)


def _holds(ready: Sequence[Job], asked: Mapping[str, Mapping[str, int]], plans: Plan) -> dict[str, Hold]:
    holds = {}
    for job in ready:
        if job.id in asked:
            said = ", ".join(f"{count} x {kind}" for kind, count in asked[job.id].items())
            holds[job.group] = Hold(reason=f"own machines are taken; the cloud is asked for {said}", evidence={})
        elif (hold := plans.holds.get(job.group)) is not None:
            holds[job.group] = Hold(
                reason=f"own machines are taken; in the cloud {hold.reason}", evidence=hold.evidence
            )
    return holds


def _back(cloud: Cloud, leases: Sequence[Lease], free: _Free, now_us: int) -> Iterator[Lease]:
    """The largest first: they cost most. What others wait for they are given as anybody who can be stopped: for a while."""
    stayed_us = now_us - round(cloud.stay_s * US_PER_S)
    for lease in sorted(leases, key=lambda one: (-one.size, one.started_us, one.job.id)):
        if _may_move(lease, stayed_us) and free.take(lease.job):
            yield lease


def _with_what_can_be_bought(
    cloud: Cloud, there: Sequence[Pool], ready: Sequence[Job], rules: Rules
) -> tuple[tuple[Pool, ...], dict[str, str]]:
    """The pools with as many machines more as could be bought and used, and the kind of each machine by its id."""
    kinds = {
        node.id: next((kind.name for kind in cloud.kinds if _is(kind, node)), "")
        for pool in there
        for node in pool.nodes
    }
    have, wanted = Counter(kinds.values()), sum(job.least for job in ready)
    more = [
        Node(id=f"{kind.name}#{number}", total=kind.total, labels=kind.labels)
        for kind in cloud.kinds
        for number in range(min(kind.most - have[kind.name], cloud.most - len(kinds), wanted))
    ]
    kinds |= {node.id: node.id.rpartition("#")[0] for node in more}
    new = {pool.name: pool.nodes for pool in rules.divided(more)}
    return tuple(replace(pool, nodes=(*pool.nodes, *new.get(pool.name, ()))) for pool in there), kinds


def _weight(job: Job, size: int) -> float:
    """GPUs count, and where there are none, CPUs."""
    each = dict(job.each)
    return (each.get("GPU") or each.get("CPU") or 1.0) * size


def _is(kind: Kind, node: Node) -> bool:
    return suits(node.labels, kind.labels) and all(node.total.get(what) == has for what, has in kind.total.items())


class _Swaps:
    """Who is to leave own machines so that larger ones fit there. Those that are `out` go as soon as there are bought machines
    for them; waiting jobs that `stay` get their room. Where the larger one is on bought machines that would do for them, they
    change places at once: `back` and `sent`."""

    def __init__(
        self,
        cloud: Cloud,
        mine: Snapshot,
        leases: Sequence[Lease],
        ready: Sequence[Job],
        free: _Free,
        now_us: int,
    ) -> None:
        self.out: list[Lease] = []
        self.stay: set[str] = set()
        self.back: list[Lease] = []
        self.sent: list[Lease] = []
        stayed_us = now_us - round(cloud.stay_s * US_PER_S)
        small = [one for one in mine.leases if _may_move(one, stayed_us) and _fits_a_kind(cloud, one.job)]
        small.sort(key=lambda one: (one.size, -one.started_us, one.job.id))
        there = {one.job.id: one for one in leases if _may_move(one, stayed_us)}
        away = [replace(one.job, count=one.size, least=one.size) for one in there.values()]
        for job in sorted([*ready, *away], key=lambda one: (-one.least, one.submitted_us, one.id)):
            others = [one for one in small if one.job.pool == job.pool and one.job.priority <= job.priority]
            chosen = free.room_by(job, others)
            if chosen is None:
                continue
            small = [one for one in small if one not in chosen]
            lease = there.get(job.id)
            if lease is not None and _would_do(lease, chosen):
                self.back.append(lease)
                self.sent += chosen
            else:
                self.out += chosen
                self.stay.add(job.id)


def _would_do(lease: Lease, others: Sequence[Lease]) -> bool:
    """Whether they fit where it is: bundle by bundle."""
    has = dict(lease.job.each)
    small = all(amount <= has.get(name, 0.0) for one in others for name, amount in one.job.each)
    return small and sum(one.size for one in others) <= lease.size


def _may_move(lease: Lease, stayed_us: int) -> bool:
    return lease.job.preemptible and not lease.draining and lease.started_us <= stayed_us


def _fits_a_kind(cloud: Cloud, job: Job) -> bool:
    nodes = Nodes([Node(id=kind.name, total=kind.total, labels=kind.labels) for kind in cloud.kinds])
    shape = nodes.shape(job)
    return shape is not None and nodes.most(shape) > 0


class _Free:
    """What is free of own machines after a plan."""

    def __init__(self, mine: Snapshot, found: Plan) -> None:
        self.nodes = {pool.name: Nodes(pool.nodes) for pool in mine.pools}
        self._slots = {
            name: Slots(nodes, [lease for lease in mine.leases if lease.job.pool == name])
            for name, nodes in self.nodes.items()
        }
        for admit in found.admits:
            self._taken(admit.job, admit.placed)

    def fits(self, job: Job) -> bool:
        return self._place(job) is not None

    def take(self, job: Job) -> bool:
        placed = self._place(job)
        if placed is not None:
            self._taken(job, placed)
        return placed is not None

    def room_by(self, job: Job, others: Sequence[Lease]) -> list[Lease] | None:
        """The first of these that make room for it together, if they hold less than it asks for. Then the room is its own."""
        nodes, slots = self.nodes.get(job.pool), self._slots.get(job.pool)
        shape = None if nodes is None else nodes.shape(job)
        if nodes is None or slots is None or shape is None:
            return None
        trial, weight = Trial(slots, shape, whole=True), _weight(job, job.least)
        chosen: list[Lease] = []
        for lease in others:
            if trial.total >= job.least:
                break
            if sum(_weight(one.job, one.size) for one in chosen) + _weight(lease.job, lease.size) >= weight:
                return None
            trial.add(nodes.taken(lease.job), lease.placed)
            chosen.append(lease)
        if trial.total < job.least or not chosen:
            return None
        for lease in list(reversed(chosen)):  # the larger ones may not be needed after all
            trial.add(nodes.taken(lease.job), lease.placed, -1)
            if trial.total >= job.least:
                chosen.remove(lease)
            else:
                trial.add(nodes.taken(lease.job), lease.placed)
        for lease in chosen:
            slots.give_back(nodes.taken(lease.job), lease.placed)
        fit = slots.fit(shape, job.least, later=True, whole=True)
        assert fit is not None
        slots.promise(shape, nodes.spread(fit.room, job.least))
        return chosen

    def _taken(self, job: Job, placed: Placed) -> None:
        nodes = self.nodes[job.pool]
        self._slots[job.pool].take(nodes.taken(job), placed)

    def _place(self, job: Job) -> Placed | None:
        nodes = self.nodes.get(job.pool)
        shape = None if nodes is None else nodes.shape(job)
        if nodes is None or shape is None:
            return None
        fit = self._slots[job.pool].fit(shape, job.least, later=False, whole=True)
        return None if fit is None else nodes.spread(fit.room, job.least)
