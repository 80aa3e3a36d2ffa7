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

Where a job says what data it reads, and the cloud what it costs to bring them, it goes to the kind of machine that is the
cheapest with that, waits longer the more that costs, and counts as so much larger where somebody is to be sent
(`mlplat.jobs.egress`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlplat.clock import US_PER_S
from mlplat.decision import Hold
from mlplat.jobs.cheapest import cheapest
from mlplat.jobs.cloud import Cloud, Kind, is_bought
from mlplat.jobs.demand import suits
from mlplat.jobs.egress import GB, Way, burden, by_pool, ways
from mlplat.jobs.job import Job, Lease, Node, Pool, Tenant
from mlplat.jobs.moves import Free, Swaps, homecoming
from mlplat.jobs.plan import Admit, Evict, Plan, Snapshot
from mlplat.jobs.room import Nodes
from mlplat.jobs.rules import Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursting:
    """Jobs for which bought machines are to come are `asked`, with how many of each kind; `machines` is how many those are in
    all, beside the ones that are `busy`. `back` are leases in the cloud for which own machines are free, and `sent` those of
    own machines for which bought ones are, which are to make room for larger ones. `why` is the reason if it is another."""

    admits: tuple[Admit, ...] = ()
    evictions: tuple[Evict, ...] = ()
    holds: Mapping[str, Hold] = field(default_factory=dict)
    machines: Mapping[str, int] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    asked: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    back: tuple[Lease, ...] = ()
    sent: tuple[Lease, ...] = ()
    why: str = ""


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
    if cloud.closed:
        return _closed(cloud, mine, found, leases, waited_us)
    free = Free(mine, found)
    given = {admit.job.id for admit in found.admits} | {evict.by.id for evict in found.evictions}
    waiting = [job for job in mine.waiting if job.id in waited_us and job.id not in given]
    budgets = _Budgets(cloud, rules)
    patient = [
        replace(job, count=job.least)
        for job in waiting
        if waited_us[job.id] >= budgets.us(job, data=False) and not free.fits(job)
    ]
    ready = [job for job in patient if not job.data or waited_us[job.id] >= budgets.us(job)]
    back = list(homecoming(cloud, leases, free, now_us)) if cloud.back else []
    staying = [lease for lease in leases if lease not in back]
    leases_there, larger = (staying, patient) if cloud.back else ([], [])
    swaps = Swaps(cloud, mine, leases_there, larger, free, budgets.burden, now_us)
    out = {lease.job.id: lease for lease in swaps.out}
    asking = [replace(job, count=job.least, priority=rules.policy.over_fairness) for job in leaving]
    asking += [job for job in ready if job.id not in swaps.stay]
    asking += [replace(lease.job, count=lease.size, least=lease.size) for lease in out.values()]
    pools, kinds = _with_what_can_be_bought(cloud, there, asking, rules)
    tenants = {name: replace(tenant, quota={}) for name, tenant in beside(mine.tenants, mine.leases).items()}
    asks = Snapshot(pools=pools, tenants=tenants, leases=_with_a_slice(leases, rules), waiting=asking)
    by = {job.id for job in ready}
    choices = {job.id: budgets.choices(job, waited_us[job.id] if job.id in by else None) for job in asking if job.data}
    plans, groups = cheapest(asks, choices, kinds, rules.policy, now_us=now_us)
    given_out = _GivenOut(cloud, plans, there, leases, kinds, out.keys(), {job.id for job in leaving})
    late = [job for job in patient if job.id not in by and job.id not in swaps.stay]
    return Bursting(
        admits=tuple(given_out.admits),
        evictions=_evictions(plans, leases, by),
        holds=budgets.holds(late) | _holds(ready, given_out.asked, plans, groups),
        machines=Counter(kinds[node] for node in sorted(given_out.wanted - given_out.busy)),
        busy=frozenset(given_out.busy),
        asked=given_out.asked,
        back=(*back, *swaps.back),
        sent=(*swaps.sent, *(out[job_id] for job_id in given_out.go)),
    )


def _with_a_slice(leases: Iterable[Lease], rules: Rules) -> list[Lease]:
    """What was used of bought machines is not remembered, so that those who cannot all have some take turns of a fixed length."""
    return [
        replace(one, job=replace(one.job, min_run_s=max(one.job.min_run_s, rules.policy.slice_s))) for one in leases
    ]


def _evictions(plans: Plan, leases: Iterable[Lease], by: Container[str]) -> tuple[Evict, ...]:
    """Not for what is only moved."""
    own = {one.job.id: one for one in leases}
    return tuple(replace(evict, lease=own[evict.lease.job.id]) for evict in plans.evictions if evict.by.id in by)


class _GivenOut:
    """What becomes of a plan for bought machines, some of which are not there: who gets those that are, `asked` for whom others
    are to come, and who of those that are to leave own machines may `go`."""

    def __init__(
        self,
        cloud: Cloud,
        plans: Plan,
        there: Sequence[Pool],
        leases: Sequence[Lease],
        kinds: Mapping[str, str],
        out: Container[str],
        leaving: Container[str],
    ) -> None:
        real = {node.id for pool in there for node in pool.nodes}
        self.busy = {node for lease in leases for node, _ in lease.placed if node in real}
        self.wanted: set[str] = set()
        self.admits: list[Admit] = []
        self.go: list[str] = []
        self.asked: dict[str, Mapping[str, int]] = {}
        for admit in plans.admits:
            job_id, nodes = admit.job.id, {node for node, _ in admit.placed}
            if len(self.busy | self.wanted | nodes) > cloud.most or (job_id in leaving and not nodes <= real):
                continue
            if not nodes <= real:
                self.asked[job_id] = Counter(kinds[node] for node in sorted(nodes))
                self.wanted |= nodes
                continue
            self.busy |= nodes
            if job_id in out:
                self.go.append(job_id)
            else:
                self.admits.append(admit)


def _closed(
    cloud: Cloud, mine: Snapshot, found: Plan, leases: Sequence[Lease], waited_us: Mapping[str, int]
) -> Bursting:
    """What can be stopped stops, and waits for own machines; the rest ends there."""
    held = frozenset(node for lease in leases for node, _ in lease.placed)
    hold = Hold(reason=f"own machines are taken, and nothing is bought: {cloud.closed}", evidence={})
    return Bursting(
        holds={job.group: hold for job in mine.waiting if job.id in waited_us and job.group in found.holds},
        busy=held,
        back=tuple(lease for lease in leases if lease.job.preemptible and not lease.draining),
        why=f"it leaves the cloud: {cloud.closed}",
    )


def own_nodes(cloud: Cloud, rules: Rules) -> dict[str, Nodes]:
    """By pool, as if all were there."""
    nodes = [
        Node(id=f"{kind.name}#{number}", total=kind.total, labels=kind.labels)
        for kind in cloud.own
        for number in range(kind.most)
    ]
    return {pool.name: Nodes(pool.nodes) for pool in rules.divided(nodes)}


def budget_us(cloud: Cloud, job: Job, nodes: Nodes | None, way: Way | None = None) -> int:
    """How long it waits for own machines before it goes to bought ones: those of `way`, or (None) the cheapest. What does not
    fit on own ones at all does not wait."""
    shape = None if nodes is None else nodes.shape(job)
    if nodes is None or shape is None or nodes.most(shape) < job.least:
        return 0
    have = nodes.total.sum(axis=0).tolist()
    share = float(max(job.least * takes / have[column] for column, takes in shape.parts))
    way = way or next(iter(ways(cloud, job)), None)
    return round((cloud.wait_s * share + (0.0 if way is None else way.wait_s)) * US_PER_S)


class _Budgets:
    """How long jobs wait, and for what."""

    def __init__(self, cloud: Cloud, rules: Rules) -> None:
        self._cloud, self._pools, self._own = cloud, by_pool(cloud, rules), own_nodes(cloud, rules)

    def _of(self, job: Job) -> tuple[Cloud, Nodes | None]:
        return self._pools.get(job.pool, self._cloud), self._own.get(job.pool)

    def us(self, job: Job, *, data: bool = True) -> int:
        """Without `data`: as if it had none."""
        one = job if data or not job.data else replace(job, data=())
        return budget_us(self._of(job)[0], one, self._of(job)[1])

    def burden(self, job: Job) -> float:
        return burden(self._of(job)[0], job)

    def choices(self, job: Job, waited_us: int | None) -> list[str]:
        """Kinds that it has waited long enough for, the cheapest first; all if it has own machines, and is to leave them."""
        cloud, own = self._of(job)
        found = ways(cloud, job)
        return [way.kind for way in found if waited_us is None or budget_us(cloud, job, own, way) <= waited_us]

    def holds(self, jobs: Iterable[Job]) -> dict[str, Hold]:
        """Of those that would be in the cloud if they had no data."""
        holds = {}
        for job in jobs:
            way, size = ways(self._of(job)[0], job)[0], sum(size for _, size in job.data) / GB
            hours = self.us(job) / US_PER_S / 3_600
            brings = f"its {size:g} GB would cost {way.egress:.4g} to bring"
            said = brings if way.egress else f"machines near its {size:g} GB cost more"
            reason = f"own machines are taken; in the cloud {said}: it waits {hours:.1f} h for own ones"
            holds[job.group] = Hold(reason=reason, evidence={"egress": way.egress})
        return holds


def _holds(
    ready: Sequence[Job], asked: Mapping[str, Mapping[str, int]], plans: Plan, groups: Mapping[str, str]
) -> dict[str, Hold]:
    holds = {}
    for job in ready:
        if job.id in asked:
            said = ", ".join(f"{count} x {kind}" for kind, count in asked[job.id].items())
            holds[job.group] = Hold(reason=f"own machines are taken; the cloud is asked for {said}", evidence={})
        elif (hold := plans.holds.get(groups.get(job.id, job.group))) is not None:
            holds[job.group] = Hold(
                reason=f"own machines are taken; in the cloud {hold.reason}", evidence=hold.evidence
            )
    return holds


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


def _is(kind: Kind, node: Node) -> bool:
    return suits(node.labels, kind.labels) and all(node.total.get(what) == has for what, has in kind.total.items())
