"""What may move between own machines and bought ones, and what changes places so that own ones are full."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mlplat.clock import US_PER_S
from mlplat.jobs.cloud import Cloud
from mlplat.jobs.job import Job, Lease, Node
from mlplat.jobs.plan import Plan, Snapshot
from mlplat.jobs.room import Nodes, Placed
from mlplat.jobs.slots import Slots, Trial


def homecoming(cloud: Cloud, leases: Sequence[Lease], free: Free, now_us: int) -> Iterator[Lease]:
    """The largest first: they cost most. What others wait for they are given as anybody who can be stopped: for a while."""
    stayed_us = now_us - round(cloud.stay_s * US_PER_S)
    for lease in sorted(leases, key=lambda one: (-one.size, one.started_us, one.job.id)):
        if _may_move(lease, stayed_us) and free.take(lease.job):
            yield lease


def _weight(job: Job, size: int) -> float:
    """GPUs count, and where there are none, CPUs."""
    each = dict(job.each)
    return (each.get("GPU") or each.get("CPU") or 1.0) * size


class Swaps:
    """Who is to leave own machines so that larger ones fit there. Those that are `out` go as soon as there are bought machines
    for them; waiting jobs that `stay` get their room. Where the larger one is on bought machines that would do for them, they
    change places at once: `back` and `sent`. A job that would have to pay for its data counts as so many times larger as its
    `burden` says."""

    def __init__(
        self,
        cloud: Cloud,
        mine: Snapshot,
        leases: Sequence[Lease],
        ready: Sequence[Job],
        free: Free,
        burden: Callable[[Job], float],
        now_us: int,
    ) -> None:
        self.out: list[Lease] = []
        self.stay: set[str] = set()
        self.back: list[Lease] = []
        self.sent: list[Lease] = []
        stayed_us = now_us - round(cloud.stay_s * US_PER_S)
        small = [one for one in mine.leases if _may_move(one, stayed_us) and _fits_a_kind(cloud, one.job)]
        small.sort(key=lambda one: (one.size * burden(one.job), -one.started_us, one.job.id))
        there = {one.job.id: one for one in leases if _may_move(one, stayed_us)}
        away = [replace(one.job, count=one.size, least=one.size) for one in there.values()]
        vain: set[tuple[str, bool]] = set()  # of ten thousand jobs that wait most are alike
        for job in sorted([*ready, *away], key=lambda one: (-one.least, one.submitted_us, one.id)):
            lease = there.get(job.id)
            if (job.group, lease is None) in vain:
                continue
            others = (one for one in small if one.job.pool == job.pool and one.job.priority <= job.priority)
            larger = burden(job) if lease is None else 1.0  # what is there has paid
            chosen = free.room_by(job, others, larger, burden)
            if chosen is None:
                vain.add((job.group, lease is None))
                continue
            vain.clear()
            small = [one for one in small if one not in chosen]
            choose = cloud.egress and any(one.job.data for one in chosen)
            if lease is not None and not choose and _would_do(lease, chosen):
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


class Free:
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

    def room_by(
        self, job: Job, others: Iterable[Lease], larger: float, burden: Callable[[Job], float]
    ) -> list[Lease] | None:
        """The first of these that make room for it together, if they hold less than it asks for: it is so many times `larger`,
        and each of them as many times as its burden says. Then the room is its own."""
        nodes, slots = self.nodes.get(job.pool), self._slots.get(job.pool)
        shape = None if nodes is None else nodes.shape(job)
        if nodes is None or slots is None or shape is None:
            return None
        trial, weight, sent = Trial(slots, shape, whole=True), _weight(job, job.least) * larger, 0.0
        chosen: list[Lease] = []
        for lease in others:
            if trial.total >= job.least:
                break
            sent += _weight(lease.job, lease.size) * burden(lease.job)
            if sent >= weight:
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
