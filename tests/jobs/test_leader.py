"""The leader over a world that breaks at every point: nothing is lost, nothing runs twice, nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlplat.errors import Unavailable
from mlplat.jobs.job import PRIORITIES, Job, Node, Tenant
from mlplat.jobs.leader import Leader
from mlplat.jobs.ledger import LEAD_S, JobLedger
from mlplat.jobs.policy import Policy
from mlplat.jobs.record import HOLDS, Command, Record, Report, Request
from mlplat.jobs.rules import Rules
from mlplat.jobs.turn import Effect, Exit, Group, Launch, Place, Remove, Seen, Stop

US, GRACE_S = 1_000_000, 5.0
RULES = Rules(
    tenants={"b": Tenant(name="b", weight=2.0), "c": Tenant(name="c", quota={"default": {"GPU": 2}})},
    policy=Policy(slice_s=20.0),
    grace_s=GRACE_S,
)
COMMAND = Command(arguments=("work",), folder="/")


def job(name: str, tenant: str = "a", *, at_us: int = 0, **given: Any) -> Job:
    values: dict[str, Any] = {"pool": "default", "each": (("GPU", 1.0),), "min_run_s": 5.0, **given}
    return Job(id=name, tenant=tenant, submitted_us=at_us, **values)


def record(name: str, tenant: str = "a", *, driver: str = "", **given: Any) -> Record:
    return Record(job=job(name, tenant, **given), name=name, driver=driver, command=None if driver else COMMAND)


class Jumping:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self._now_us = 1_000_000_000_000

    def now_us(self) -> int:
        return self._now_us

    def elapsed_s(self) -> float:
        return self._now_us / US

    def advance(self, seconds: float) -> None:
        self._now_us += round(seconds * US)


@dataclass
class Work:
    """What runs on a lease."""

    job: str
    lease: int
    stopped: bool = False


@dataclass
class World:
    """A cluster: groups get room when there is some, work on them goes on, and stops some time after it was asked to."""

    nodes: dict[str, float]
    down: set[str] = field(default_factory=set)
    used: dict[str, float] = field(default_factory=dict)
    groups: dict[str, tuple[Record, Group]] = field(default_factory=dict)
    works: dict[str, Work] = field(default_factory=dict)
    exits: dict[str, Exit] = field(default_factory=dict)
    drivers: set[str] = field(default_factory=set)
    left: dict[str, int] = field(default_factory=dict)
    deaf: set[str] = field(default_factory=set)
    reports: list[Report] = field(default_factory=list)

    def seen(self) -> Seen:
        alive = [Node(id=name, total={"GPU": size}) for name, size in self.nodes.items() if name not in self.down]
        return Seen(
            pools=RULES.divided(alive),
            used={name: {"GPU": amount} for name, amount in self.used.items()},
            groups={name: state for name, (_, state) in self.groups.items()},
            runs={name: self.exits.get(name) for name in {*self.works, *self.exits}},
            drivers=frozenset(self.drivers),
        )

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case Place(record=asked):
                assert asked.group not in self.groups
                self.groups[asked.group] = (asked, "pending")
                held: Counter[str] = Counter()
                for one, _ in self.groups.values():
                    held.update(dict(one.placed))
                assert all(count <= self.nodes[node] for node, count in held.items()), "not given back yet"
                self.settle()
            case Launch(record=asked):
                self.start(asked)
            case Stop(record=asked):
                if asked.group in self.works and asked.job.id not in self.deaf:
                    self.works[asked.group].stopped = True
            case Remove(group=name):
                del self.groups[name]
                self.works.pop(name, None)
                self.exits.pop(name, None)
                self.settle()

    def start(self, asked: Record) -> None:
        assert self.groups[asked.group][1] == "ready"
        assert all(work.job != asked.job.id for work in self.works.values()), "it runs twice"
        self.works[asked.group] = Work(asked.job.id, asked.lease)

    def settle(self) -> None:
        """Room to groups, in the order in which they came; what is on a node that is gone breaks."""
        free = {name: size - self.used.get(name, 0.0) for name, size in self.nodes.items()}
        for asked, state in self.groups.values():
            if state == "ready":
                for node, count in asked.placed:
                    free[node] -= count
        for name, (asked, state) in self.groups.items():
            if any(node in self.down for node, _ in asked.placed):
                self.groups[name] = (asked, "broken")
                self.works.pop(name, None)
            elif state == "pending" and all(free[node] >= count for node, count in asked.placed):
                self.groups[name] = (asked, "ready")
                for node, count in asked.placed:
                    free[node] -= count

    def work(self, records: dict[str, Record]) -> None:
        """A step of all that runs; the processes that wait for slots look at what became of their jobs."""
        for own in records.values():
            ready = self.groups.get(own.group, (own, "broken"))[1] == "ready"
            if own.driver in self.drivers and own.state == "running" and ready and not self._begun(own):
                self.start(own)
            if own.driver and own.state == "stopping" and own.group in self.works and own.job.id not in self.deaf:
                self.works[own.group].stopped = True
        for name, work in list(self.works.items()):
            attached = bool(self.groups[name][0].driver)
            if attached and self.groups[name][0].driver not in self.drivers:
                del self.works[name]
            elif work.stopped:
                self._end(name, work, "yielded", attached)
            elif self.left[work.job] <= 1:
                self.left[work.job] = 0
                self._end(name, work, "done", attached)
            else:
                self.left[work.job] -= 1

    def _begun(self, own: Record) -> bool:
        return own.group in self.works or any((r.job, r.lease) == (own.job.id, own.lease) for r in self.reports)

    def _end(self, name: str, work: Work, outcome: Any, attached: bool) -> None:
        del self.works[name]
        if attached:
            self.reports.append(Report(job=work.job, lease=work.lease, outcome=outcome))
        else:
            self.exits[name] = Exit(outcome=outcome, reason="")


class Full:
    """A ledger whose disk can be full."""

    def __init__(self, ledger: JobLedger) -> None:
        self._ledger, self.full = ledger, False

    def write(self, *given: Any, **named: Any) -> None:
        if self.full:
            raise Unavailable("the disk is full")
        self._ledger.write(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


class Cluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Jumping()
        self.ledger: Any = Full(JobLedger("sqlite://", Path("/dev/null")))
        self.ledger.set_rules(RULES)
        self.world = World({"n0": 4.0, "n1": 4.0})
        self.cluster = 1
        self.leader = self.started()
        self.submitted: dict[str, Record] = {}
        self.old: list[Report] = []
        self.cancelled: set[str] = set()

    def started(self) -> Leader:
        return Leader(self.ledger, f"cluster {self.cluster}", self.clock)

    def turn(self, crash_after: int | None = None) -> None:
        """Until nothing changes, or it crashes after so many effects."""
        for _ in range(20):
            reports, self.world.reports = self.world.reports, []
            self.old += reports
            try:
                effects = self.leader.step(self.world.seen(), reports)
            except Unavailable:
                self.world.reports = reports + self.world.reports
                return
            for effect in effects:
                if crash_after == 0:
                    self.leader = self.started()
                    return
                crash_after = None if crash_after is None else crash_after - 1
                self.world.carry_out(effect)
            if not effects:
                return

    @rule(
        tenant=st.sampled_from("abcd"),
        size=st.sampled_from([(1, 1), (1, 1), (2, 2), (4, 4), (1, 3), (6, 6)]),
        priority=st.sampled_from(list(PRIORITIES.values())),
        preemptible=st.booleans(),
        attached=st.booleans(),
        deaf=st.integers(0, 5),
        steps=st.integers(1, 20),
    )
    def submit(
        self,
        tenant: str,
        size: tuple[int, int],
        priority: int,
        preemptible: bool,
        attached: bool,
        deaf: int,
        steps: int,
    ) -> None:
        name = f"j{len(self.submitted)}"
        driver = f"driver of {name}" if attached else ""
        given = {"least": size[0], "count": size[1], "priority": priority, "preemptible": preemptible}
        made = record(name, tenant, driver=driver, at_us=self.clock.now_us(), **given)
        self.world.drivers |= {driver} - {""}
        self.world.left[name] = steps
        if deaf == 0:
            self.world.deaf.add(name)
        self.ledger.submit([made])
        self.submitted[name] = made

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.submitted)))
        self.ledger.request(Request(job=name, priority=None))
        self.cancelled.add(name)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data(), priority=st.sampled_from(list(PRIORITIES.values())))
    def reprioritise(self, data: Any, priority: int) -> None:
        self.ledger.request(Request(job=data.draw(st.sampled_from(sorted(self.submitted))), priority=priority))

    @rule(crash_after=st.none() | st.integers(0, 4))
    def look(self, crash_after: int | None) -> None:
        self.turn(crash_after)

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.0, 3.0, 11.0]), crash_after=st.none() | st.integers(0, 4))
    def go_on(self, seconds: float, crash_after: int | None) -> None:
        self.clock.advance(seconds)
        self.world.work(self.leader.records)
        self.turn(crash_after)

    @rule(seconds=st.sampled_from([-100.0, 86_400.0]))
    def clock_jumps(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(node=st.sampled_from(["n0", "n1"]))
    def node_goes(self, node: str) -> None:
        self.world.down ^= {node}
        self.world.settle()

    @rule(node=st.sampled_from(["n0", "n1"]), amount=st.sampled_from([0.0, 1.0, 3.0]))
    def others_use(self, node: str, amount: float) -> None:
        self.world.used[node] = amount

    @precondition(lambda self: self.world.drivers)
    @rule(data=st.data())
    def driver_dies(self, data: Any) -> None:
        self.world.drivers.remove(data.draw(st.sampled_from(sorted(self.world.drivers))))

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def says_it_again(self, data: Any) -> None:
        """The answer to a report was lost on its way."""
        self.world.reports.append(data.draw(st.sampled_from(self.old)))

    @rule()
    def disk_is_full_for_a_while(self) -> None:
        self.ledger.full = not self.ledger.full

    @rule()
    def another_cluster(self) -> None:
        """All processes are gone; who attached is gone too."""
        self.cluster += 1
        self.world.groups, self.world.works, self.world.exits = {}, {}, {}
        self.world.drivers, self.world.reports = set(), []
        self.clock.advance(LEAD_S + 1)
        self.ledger.full = False
        self.leader = self.started()

    @invariant()
    def nothing_is_given_twice(self) -> None:
        """Nor before it has been given back: what is there counts, and what is to be."""
        taken: Counter[str] = Counter()
        there = {name: asked.placed for name, (asked, _) in self.world.groups.items()}
        leased = {own.group: own.placed for own in self.leader.records.values() if own.state in HOLDS}
        for placed in (leased | there).values():
            taken.update(dict(placed))
        assert all(count <= self.world.nodes[node] for node, count in taken.items())

    @invariant()
    def nothing_is_lost(self) -> None:
        known = {one.job.id: one for one in self.ledger.records(ended=len(self.submitted))}
        assert known.keys() == self.submitted.keys()
        assert all(known[name] == one for name, one in self.leader.records.items())
        for name, one in known.items():
            if one.state == "done":
                assert self.world.left[name] == 0
            assert one.state != "cancelled" or name in self.cancelled
            assert one.state != "failed" or one.driver
        runs = Counter(work.job for work in self.world.works.values())
        assert all(count == 1 for count in runs.values())

    def teardown(self) -> None:
        """Once nothing breaks any more everything ends."""
        self.world.down, self.world.used, self.world.deaf = set(), {}, set()
        self.ledger.full = False
        self.world.settle()
        for _ in range(60 + 30 * len(self.submitted)):
            self.clock.advance(1.0)
            self.world.work(self.leader.records)
            self.turn()
            if not self.leader.records and not self.world.groups:
                break
        assert not self.leader.records
        assert not self.ledger.records()
        assert not self.world.groups
        assert not self.world.works
        self.nothing_is_lost()
        self.ledger.close()


TestCluster = pytest.mark.slow(Cluster.TestCase)
TestCluster.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
