"""The plan skips work whose result is known: it decides what it would without that."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks._figures import Scene
from benchmarks._jobs import decision
from mlplat.decision import Hold
from mlplat.jobs import plan as planning
from mlplat.jobs.job import PRIORITIES, Job, Lease, Node, Pool, Tenant
from mlplat.jobs.lines import Line
from mlplat.jobs.plan import Plan, Snapshot, plan
from mlplat.jobs.policy import Policy
from mlplat.jobs.rights import Rights
from mlplat.jobs.room import Grid, Shape
from mlplat.jobs.shares import ROUND, Standing
from mlplat.jobs.slots import Fit, Slots
from mlplat.jobs.usage import Usage
from mlplat.jobs.victims import Victims

US = 1_000_000
Compare = Callable[[Snapshot, Policy, int], Plan]


class _SlowSlots(Slots):
    """Works out anew what fits."""

    def fit(self, shape: Shape, least: int, *, later: bool, whole: bool) -> Fit | None:
        room = self._nodes.bundles(self.grid(later=later, whole=whole), shape).tolist()
        return None if sum(room) < least else Fit(room, sum(room), 0)


class _Slow(planning._Planner):
    """Looks at each lease, keeps nothing in mind, tries all places, and puts everybody in the queue anew."""

    def __init__(self, pool: Pool, snapshot: Snapshot, policy: Policy, *rest: Any) -> None:
        super().__init__(pool, snapshot, policy, *rest)
        self.slots = _SlowSlots(self.nodes, self.leases)

    def _moved(self, line: Line, as_of: int) -> bool:
        return True

    def _rank(self, line: Line) -> tuple[int, bool, int, float, float]:
        line.groups.sort(key=lambda one: (-one.head.priority, one.head.submitted_us, one.head.id))
        stand, job = line.stand, line.groups[0].head
        capacity = [max(1, total) for total in self.nodes.total.sum(axis=0).tolist()]
        assert stand.share == max(held / most for held, most in zip(stand.held, capacity, strict=True))
        asked, weighted, fair = (
            self.shares.dominant(job, job.least),
            stand.share / stand.weight,
            stand.fair / stand.weight,
        )
        turn = stand.usage < -self.shares.turn(stand, asked)
        below = weighted - fair + asked / stand.weight <= ROUND
        stands = 0 if turn or below else 1 if weighted - fair <= ROUND else 2
        return -line.tier, not self._guaranteed(line, job.least), stands, stand.usage, weighted

    def _guaranteed(self, line: Line, least: int) -> bool:
        job = line.groups[0].head
        quota = self.shares.quota(job)
        full = any(line.stand.held[at] + has * least > bound for at, bound, has in quota)
        return not line.passed and bool(quota) and not full

    def _now(self, shape: Shape, least: int, later: Fit | None, backfill: bool) -> Fit | None:
        return self.slots.fit(shape, least, later=False, whole=backfill)

    def _why(self, stand: Standing) -> Hold:
        self._whys.clear()
        return super()._why(stand)

    def _victims(self, line: Line, least: int, shape: Shape) -> Victims | None:
        job, first = line.groups[0].head, not self.wanted

        def rights() -> Rights:
            guaranteed = self._guaranteed(line, least)
            return Rights(
                self.shares, self.stoppable, job, least, first=first, guaranteed=guaranteed, now_us=self.now_us
            )

        def enough(grid: Grid) -> bool:
            return self.nodes.place(grid, shape, least) is not None

        def given(lease: Lease, grid: Grid, sign: int = 1) -> Grid:
            grid = grid.copy()
            self.nodes.add(grid, self.nodes.taken(lease.job), lease.placed, sign)
            return grid

        base = self.slots.grid(later=True, whole=job.preemptible)
        gone = {evict.lease.job.id for evict in self.evictions}
        every = [lease for lease in self.stoppable.leases if lease.job.id not in gone]
        own, later, chosen = rights(), base, []
        for lease in every:
            reason = own.over(lease)
            takes = self.nodes.taken(lease.job).takes
            if reason is None or not any(takes[column] for column, _ in shape.parts):
                continue
            own.given_up(lease)
            chosen.append((lease, reason))
            later = given(lease, later)
            if enough(later):
                break
        else:
            return None
        own, highest = rights(), max(lease.job.priority for lease, _ in chosen)
        for lease in every:
            if lease.job.priority <= highest and enough(given(lease, base)) and (reason := own.over(lease)) is not None:
                return [(lease, reason)]
        kept = list(chosen)
        for one in reversed(chosen):
            if enough(without := given(one[0], later, -1)):
                later = without
                kept.remove(one)
        return kept


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Compare:
    def both(snapshot: Snapshot, policy: Policy, now_us: int) -> Plan:
        found = plan(snapshot, policy, now_us=now_us)
        with monkeypatch.context() as patched:
            patched.setattr(planning, "_Planner", _Slow)
            assert plan(snapshot, policy, now_us=now_us) == found
        return found

    return both


def _pools(rng: random.Random) -> tuple[Pool, ...]:
    def node(name: str) -> Node:
        total = rng.choice([{"GPU": 4.0, "CPU": 16.0}, {"GPU": 8.0, "CPU": 16.0}, {"CPU": 16.0}, {"GPU": 2.0}])
        return Node(id=name, total=total, labels=rng.choice([{}, {"site": "office"}]))

    return tuple(
        Pool(name=name, nodes=tuple(node(f"{name}{i}") for i in range(rng.randint(1, 6)))) for name in ("gpu", "old")
    )


def _tenant(rng: random.Random, name: str) -> Tenant:
    quota = rng.choice(
        [{}, {}, {"gpu": {"GPU": 2.0}}, {"gpu": {"GPU": 3.0, "CPU": 9.0}}, {"gpu": {"GPU": 4.0, "CPU": 99.0}}]
    )
    limit = rng.choice([{}, {}, {}, {"gpu": {"GPU": 6.0}}])
    return Tenant(name=name, weight=rng.choice([0.5, 1.0, 2.0]), quota=quota, limit=limit)


def _job(rng: random.Random, name: str, now_us: int) -> Job:
    least = rng.choice([1, 1, 1, 2, 3, 4, 8])
    return Job(
        id=name,
        tenant=rng.choice("abcdef"),
        pool=rng.choice(["gpu", "gpu", "gpu", "old"]),
        submitted_us=now_us,
        each=rng.choice([(("GPU", 1.0),), (("GPU", 1.0),), (("CPU", 2.0), ("GPU", 1.0)), (("CPU", 1.5),)]),
        least=least,
        count=least + rng.choice([0, 0, 0, 2]),
        labels=rng.choice([(), (), (), (("site", "office"),)]),
        priority=rng.choice([*PRIORITIES.values(), 150, 200, 200]),
        preemptible=rng.random() < 0.8,
        min_run_s=rng.choice([0.0, 5.0, 30.0]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_in_made_up_crowds(seed: int, compare: Compare) -> None:
    rng = random.Random(seed)
    pools, tenants = _pools(rng), {name: _tenant(rng, name) for name in "abcde"}
    policy, usage, now_us = Policy(slice_s=rng.choice([1.0, 20.0])), Usage(half_life_s=120.0), 0
    leases: list[Lease] = []
    waiting: list[Job] = []
    for turn in range(12):
        waiting += [_job(rng, f"j{turn:02}.{i:02}", now_us + i // 3) for i in range(rng.choice([0, 2, 20, 60]))]
        waiting.sort(key=lambda job: job.submitted_us if turn % 3 else rng.random())
        snapshot = Snapshot(
            pools=pools, tenants=tenants, leases=tuple(leases), waiting=tuple(waiting), usage=usage.seconds
        )
        found = compare(snapshot, policy, now_us)
        begun, gone = {one.job.id for one in found.admits}, {one.lease.job.id for one in found.evictions}
        leases = [replace(one, draining=one.draining or one.job.id in gone) for one in leases]
        leases += [
            Lease(job=one.job, placed=one.placed, started_us=now_us, backfill=one.backfill) for one in found.admits
        ]
        leases = [one for one in leases if rng.random() > (0.7 if one.draining else 0.1)]
        waiting = [one for one in waiting if one.id not in begun]
        now_us += rng.choice([1, 5, 20]) * US
        usage = usage.later(now_us, found.over)


def _asks(name: str, tenant: str, **given: Any) -> Job:
    return Job(id=name, tenant=tenant, pool="gpu", **{"submitted_us": 0, "each": (("GPU", 1.0),), **given})


def _runs(job: Job, node: str = "n0") -> Lease:
    return Lease(job=job, placed=((node, 1),), started_us=0)


def test_what_had_no_right_may_have_one_when_slots_changed_hands(compare: Compare) -> None:
    office = {"site": "office"}
    nodes = (Node(id="n0", total={"GPU": 3.0, "CPU": 8.0}), Node(id="n1", total={"GPU": 1.0}, labels=office))
    wide = {"least": 2, "count": 2}
    snapshot = Snapshot(
        pools=[Pool(name="gpu", nodes=nodes)],
        tenants={},
        leases=[
            _runs(_asks("second", "b")),
            _runs(_asks("kept", "b", each=(("CPU", 5.0), ("GPU", 1.0)), preemptible=False)),
            _runs(_asks("first", "x", each=(("CPU", 3.0), ("GPU", 1.0)))),
            _runs(_asks("office", "y", preemptible=False), "n1"),
        ],
        waiting=[
            _asks("waits", "z", labels=tuple(office.items())),
            _asks("no", "a", **wide),
            _asks("cores", "a", each=(("CPU", 1.0),), submitted_us=1),
            _asks("yes", "a", preemptible=False, submitted_us=2, **wide),
        ],
        usage={("gpu", "x"): 9.0, ("gpu", "b"): 100.0, ("gpu", "z"): -1_000.0},
    )
    found = compare(snapshot, Policy(slice_s=20.0), 1_000 * US)
    assert [(one.by.id, one.lease.job.id) for one in found.evictions] == [("cores", "first"), ("yes", "second")]


def test_who_had_no_right_to_anything_may_have_one_when_another_got_more(compare: Compare) -> None:
    snapshot = Snapshot(
        pools=[Pool(name="gpu", nodes=(Node(id="n0", total={"GPU": 8.0, "CPU": 100.0}),))],
        tenants={},
        leases=[_runs(_asks("taken", "b")), *(_runs(_asks(f"kept{i}", "x", preemptible=False)) for i in range(7))],
        waiting=[
            _asks("no", "a"),
            _asks("yes", "a", each=(("CPU", 38.0), ("GPU", 1.0)), submitted_us=1),
            _asks("more", "b", each=(("CPU", 60.0),), submitted_us=2),
        ],
        usage={("gpu", "a"): 1.0},
    )
    found = compare(snapshot, Policy(slice_s=20.0), 1_000 * US)
    assert [one.job.id for one in found.admits] == ["more"]
    assert [(one.by.id, one.lease.job.id) for one in found.evictions] == [("yes", "taken")]


def test_who_got_slots_out_of_turn_queues_behind_who_has_none(compare: Compare) -> None:
    first = _asks("first", "a", priority=PRIORITIES["production"])
    snapshot = Snapshot(
        pools=[Pool(name="gpu", nodes=(Node(id="n0", total={"GPU": 2.0}),))],
        tenants={},
        leases=[],
        waiting=[first, _asks("third", "a"), _asks("second", "b", submitted_us=1)],
    )
    assert [one.job.id for one in compare(snapshot, Policy(), 0).admits] == ["first", "second"]


@pytest.mark.slow
def test_in_the_scene_of_the_benchmark(compare: Compare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decision, "plan", lambda snapshot, policy, *, now_us: compare(snapshot, policy, now_us))
    assert decision.time(Scene(quick=True, folder=tmp_path, say=print)).ours > 0
