"""A cluster tried on work of which it is known how long it takes: Ray's own autoscaler decides about machines, our provider buys
them, and the queue of jobs says who gets them. Only time, the clouds and the work are made up; a month takes minutes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from mlplat.clock import US_PER_S
from mlplat.cluster.hosts import Hosts
from mlplat.cluster.ledger import MachineLedger
from mlplat.cluster.router import OWN, TYPE, Router
from mlplat.cluster.scaler import Alive, Ask, head_of
from mlplat.cluster.site import Site
from mlplat.cluster.spec import NodeType, Spec, parse
from mlplat.cluster.world import Arrival, Bought, Lost, Machines, Outcome, Ran, SetClock, Settings
from mlplat.jobs.burst import Bursting, budget_us, own_nodes
from mlplat.jobs.cloud import NODE, Cloud, selector
from mlplat.jobs.egress import by_pool, egress
from mlplat.jobs.job import Job, Node
from mlplat.jobs.record import HOLDS, Command, Record
from mlplat.jobs.room import Nodes
from mlplat.jobs.rules import Rules
from mlplat.jobs.slots import Slots
from mlplat.jobs.turn import Exit, Launch, Place, Remove, Stop, Turn, turn
from mlplat.jobs.turn import Seen as Cluster
from mlplat.jobs.usage import Usage


def simulate(
    config: Mapping[str, Any],
    arrivals: Iterable[Arrival],
    *,
    ledger: str,
    rules: Rules | None = None,
    cloud: Cloud | None = None,
    settings: Settings | None = None,
    losses: Iterable[Lost] = (),
    capacity: Callable[[Mapping[str, Any]], int] | None = None,
    from_us: int = 0,
    say: Callable[[str], None] = lambda said: None,
) -> Outcome:
    """What becomes of the work on the cluster of a YAML (`check.read`), until all of it has ended. `cloud` is in place of what
    the YAML says of bursting; `ledger` is where machines are written down; `say` hears what the provider says."""
    run = _Run(
        config, arrivals, ledger, rules or Rules(), cloud, settings or Settings(), losses, capacity, from_us, say
    )
    try:
        return run.through()
    finally:
        run.ledger.close()


class _Run:
    def __init__(
        self,
        config: Mapping[str, Any],
        arrivals: Iterable[Arrival],
        ledger: str,
        rules: Rules,
        cloud: Cloud | None,
        settings: Settings,
        losses: Iterable[Lost],
        capacity: Callable[[Mapping[str, Any]], int] | None,
        from_us: int,
        say: Callable[[str], None],
    ) -> None:
        spec = parse(config)
        self.types, self.head = spec.types, spec.head
        self.rules, self.settings, self.cloud = rules, settings, cloud or spec.cloud
        self.prices, self.clouds = spec.cloud.egress, by_pool(self.cloud, self.rules)
        self.own, self.bought = own_nodes(self.cloud, self.rules), {kind.name for kind in self.cloud.kinds}
        self.clock = SetClock(from_us)
        self.ledger = MachineLedger(ledger, spec.cluster)
        self.sites = {name: Machines(name, capacity) for name in config["provider"]["sites"]}
        self._wire(spec, config, say)
        self.idle_s = {
            name: float(given.get("idle_timeout_s", config.get("idle_timeout_minutes", 0) * 60))
            for name, given in config["available_node_types"].items()
        }
        self._limited = (spec.budget.per_hour, spec.budget.per_day, spec.budget.per_month) != (None, None, None)
        self._watching, self._vain, self._left = False, 0, 0
        self.outcome = Outcome()
        self.records: dict[str, Record] = {}
        self.work: dict[str, float] = {}
        self.usage = Usage()
        self.over: Mapping[tuple[str, str], float] = {}
        self.groups: dict[str, Record] = {}
        self.runs: dict[str, Exit | None] = {}
        self.stopping: set[str] = set()
        self.nodes: dict[str, Node] = {}
        self.kinds: dict[str, str] = {}
        self.idle_us: dict[str, int] = {}
        self.dead: set[str] = set()
        self.last: Turn | None = None
        self._order = count()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        for arrival in arrivals:
            self.work[arrival.job.id] = arrival.work_s
            self._left += 1
            self._at(arrival.job.submitted_us, lambda job=arrival.job: self._arrived(job))  # type: ignore[misc]
        for loss in losses:
            self._at(loss.at_us, lambda loss=loss: self._lost(loss))  # type: ignore[misc]

    def _wire(self, spec: Spec, config: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """The provider over the made-up sites, and Ray's autoscaler over the provider."""
        from mlplat.cluster._ray.autoscaler import Autoscaler, Wired
        from mlplat.cluster._ray.provider import head_tags

        for site in self.sites.values():
            site.made = self._made
        host = (spec.types[spec.head].hosts or ("head",))[0]
        self.hosts = Hosts({host: head_tags({"host": host, "type": spec.head})}, lambda host: True, self.clock)
        sites: dict[str, Site] = {**self.sites, OWN: self.hosts}
        numbers = count()
        self.router = Router(
            spec.cluster, spec.budget, sites, self.ledger, self.clock, lambda: f"launch-{next(numbers)}", say
        )
        shown = {**config, "provider": {**config["provider"], "disable_node_updaters": True}}
        self.autoscaler = Autoscaler(shown, Wired(self.router, sites), self.clock, self._drained)

    def through(self) -> Outcome:
        there = -1
        while there < len(self.nodes) or self.outcome.ticks < 3:  # own machines are there before any work is
            there = len(self.nodes)
            self._tick()
            self._join()
        tick_us: int | None = self._later()
        while self._left:
            event_us = self._events[0][0] if self._events else None
            times = [us for us in (event_us, tick_us) if us is not None]
            if not times:
                raise RuntimeError(f"nothing happens any more, and {self._left} jobs are left")
            self.clock.us = max(self.clock.us, min(times))
            while self._events and self._events[0][0] <= self.clock.us:
                heapq.heappop(self._events)[2]()
            self._join()
            self._settle()
            self._watch_budget()
            if tick_us is not None and tick_us <= self.clock.us:
                tick_us = self._tick()
            elif tick_us is None or tick_us > self._later():
                tick_us = self._later()
        self.outcome.until_us = self.clock.us
        self.outcome.bills = [row.bill for row in self.ledger.since(0) if row.site != OWN]
        return self.outcome

    def _watch_budget(self) -> None:
        """Money is spent while nothing happens."""
        if self._limited and not self._watching and any(site.there for site in self.sites.values()):
            self._watching = True
            self._in(60.0, self._watched)

    def _watched(self) -> None:
        self._watching = False

    def _at(self, us: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (us, next(self._order), what))

    def _in(self, seconds: float, what: Callable[[], None]) -> None:
        self._at(self.clock.us + round(seconds * US_PER_S), what)

    def _later(self) -> int:
        """The autoscaler's next look."""
        period_us = round(self.settings.period_s * US_PER_S)
        return (self.clock.us // period_us + 1) * period_us

    def _next_idle(self) -> int | None:
        """When the next bought machine that is not asked for has been idle for long enough."""
        if sum(ask.count for ask in self._asks()) >= self._idle_machines():
            return None
        due = [
            us + round(self.idle_s[self.kinds[name]] * US_PER_S)
            for name, us in self.idle_us.items()
            if self.kinds[name] in self.bought
        ]
        return max(self._later(), min(due)) if due else None

    # What happens

    def _arrived(self, job: Job) -> None:
        self.records[job.id] = Record(job=job, name=job.id, command=Command(arguments=(), folder=""))
        for one in (job, replace(job, data=())):  # others may be sent before it goes itself
            self._at(job.submitted_us + self._budget_us(one), lambda: None)  # then the queue looks again

    def _budget_us(self, job: Job) -> int:
        return budget_us(self.clouds[job.pool], job, self.own.get(job.pool))

    def _made(self, names: Sequence[str], kind: str) -> None:
        """The provider has bought machines."""
        asked = [self.records[job_id] for job_id in self._wanted().asked if job_id in self.records]
        free = max((self._free_gpus(one.job) for one in asked if one.state == "queued"), default=0.0)
        self.outcome.bought.append(Bought(at_us=self.clock.us, machines=len(names), free_gpus=free))
        for name in names:
            self._in(self.settings.boot_s, lambda name=name: self._booted(name, kind))  # type: ignore[misc]

    def _booted(self, name: str, kind: str) -> None:
        if any(name in site.there for site in self.sites.values()):
            self._add(name, self.types[kind])

    def _join(self) -> None:
        """Hosts are nodes as soon as they are in the cluster."""
        for name, seen in self.hosts.machines().items():
            kind = seen.tags.get(TYPE)
            if name not in self.nodes and kind is not None and name not in self.dead:
                self._add(name, self.types[kind])

    def _add(self, name: str, kind: NodeType) -> None:
        self.nodes[name] = Node(id=name, total=kind.resources, labels=kind.labels)
        self.kinds[name] = kind.name
        self.idle_us[name] = self.clock.us

    def _drained(self, machine: str, idle: bool) -> bool:
        if idle and machine not in self.idle_us:
            return False
        self._gone(machine)
        return True

    def _gone(self, machine: str) -> None:
        self.nodes.pop(machine, None)
        self.idle_us.pop(machine, None)
        self.dead.add(machine)

    def _lost(self, loss: Lost) -> None:
        for name in list(self.sites[loss.site].there):
            self._gone(name)
        self.sites[loss.site].there.clear()

    def _ended(self, group: str) -> None:
        if group in self.groups and self.runs.get(group, "") is None:
            record = self.groups[group]
            self.work[record.job.id] = 0.0
            self.runs[group] = Exit(outcome="done", reason="")

    def _yielded(self, group: str) -> None:
        if group in self.groups and self.runs.get(group, "") is None:
            record = self.groups[group]
            self.work[record.job.id] -= self._worked(record)
            self.runs[group] = Exit(outcome="yielded", reason="")

    def _worked(self, record: Record) -> float:
        """Seconds of work on this lease until now."""
        held_s = (self.clock.us - record.started_us) / US_PER_S
        return max(0.0, held_s - (self.settings.restart_s if record.lease > 1 else 0.0))

    # The queue

    def _settle(self) -> None:
        for _ in range(50):
            found = self._turn()
            for effect in found.effects:
                self._carry_out(effect)
            if not found.changed and all(isinstance(effect, Stop) for effect in found.effects):
                return
        raise RuntimeError("the queue does not come to rest")

    def _turn(self) -> Turn:
        seen = Cluster(
            pools=self.rules.divided(list(self.nodes.values())),
            groups={
                name: "ready" if all(node in self.nodes for node, _ in record.placed) else "broken"
                for name, record in self.groups.items()
            },
            runs=self.runs,
            cloud=replace(self.cloud, closed=self.router.spent()),
        )
        found = turn(self.records, seen, self.rules, self.usage, self.over, now_us=self.clock.us)
        self.usage, self.over, self.last = found.usage, found.over, found
        before = {job_id: self.records[job_id] for job_id in found.changed}
        self.records |= found.changed
        for job_id, record in found.changed.items():
            self._written(before[job_id], record)
            if record.ended:
                self.outcome.ended_us[job_id] = self.clock.us
                del self.records[job_id]
                self._left -= 1
        return found

    def _written(self, before: Record, after: Record) -> None:
        job = after.job
        if before.state == "queued" and after.state == "placing":
            self.outcome.began_us.setdefault(job.id, self.clock.us)
            if self._in_cloud(after):
                self.outcome.egress += max(egress(self.prices, job, self.nodes[n].labels) for n, _ in after.placed)
            if self._in_cloud(after) and not before.left_us and self._free_gpus(job) > 0:
                self.outcome.misplaced += 1
        if after.state == "stopping" and before.state == "running":
            self.outcome.moved += 1
        if before.state == "returning" and after.state != "returning":
            self.outcome.ran.append(
                Ran(job=job, bought=self._in_cloud(before), began_us=before.started_us, ended_us=self.clock.us)
            )
            self._at(self.clock.us + max(0, self._budget_us(job) - after.waited_us), lambda: None)

    def _in_cloud(self, record: Record) -> bool:
        return any(self.kinds[node] in self.bought for node, _ in record.placed)

    def _carry_out(self, effect: Place | Launch | Stop | Remove) -> None:
        match effect:
            case Place(record=record):
                self.groups[record.group] = record
            case Launch(record=record):
                self.runs[record.group] = None
                restart_s = self.settings.restart_s if record.lease > 1 else 0.0
                self._in(restart_s + self.work[record.job.id], lambda: self._ended(record.group))
            case Stop(record=record):
                if record.group not in self.stopping:
                    self.stopping.add(record.group)
                    self._in(self.settings.checkpoint_s, lambda: self._yielded(record.group))
            case Remove(group=group):
                self._removed(group)
        self._idle()

    def _removed(self, group: str) -> None:
        record = self.groups.pop(group, None)
        if record is not None and self.runs.pop(group, "") is None:  # in the middle of its work
            worked = self._worked(record)
            kept = worked // self.settings.every_s * self.settings.every_s
            self.work[record.job.id] -= kept
            self.outcome.lost_s += worked - kept

    def _idle(self) -> None:
        busy = {node for record in self.groups.values() for node, _ in record.placed}
        for name in self.nodes:
            if name in busy:
                self.idle_us.pop(name, None)
            else:
                self.idle_us.setdefault(name, self.clock.us)

    def _free_gpus(self, job: Job) -> float:
        """Of own machines, if the job fits there now."""
        nodes = Nodes([node for node in self.nodes.values() if self.kinds[node.id] not in self.bought])
        slots = Slots(nodes, [record.held() for record in self.records.values() if record.state in HOLDS])
        shape = nodes.shape(job)
        fit = None if shape is None else slots.fit(shape, job.least, later=False, whole=True)
        return 0.0 if fit is None else fit.total * dict(job.each).get("GPU", 0.0)

    # The autoscaler

    def _tick(self) -> int | None:
        """When it is to look again. Where it is refused machines all the time it would so at once, and is here every minute."""
        before, calls = self.autoscaler.changes, len(self.outcome.bought)
        self.outcome.ticks += 1
        asks = self._asks()
        self.autoscaler.tick(self._shown(), asks)
        booting = {name for site in self.sites.values() for name in site.there} - self.nodes.keys()
        unmet = sum(ask.count for ask in asks) > len(booting) + self._idle_machines()
        self._vain = self._vain + 1 if unmet and len(self.outcome.bought) == calls else 0
        if self._vain > 6:
            return self.clock.us + 60 * US_PER_S
        if self.autoscaler.changes != before or unmet or booting & self.dead:
            return self._later()
        next_us = self._next_idle()
        if booting:  # for ever, perhaps
            patient_us = self.clock.us + 300 * US_PER_S
            return patient_us if next_us is None else min(patient_us, next_us)
        return next_us

    def _idle_machines(self) -> int:
        """Bought ones."""
        return sum(self.kinds[name] in self.bought for name in self.idle_us)

    def _asks(self) -> list[Ask]:
        wanted = self._wanted()
        kinds = {kind.name: kind for kind in self.cloud.kinds}
        return [
            Ask(each=kinds[name].total, labels=selector(kinds[name], wanted.busy), count=number)
            for name, number in wanted.machines.items()
            if name in kinds
        ]

    def _wanted(self) -> Bursting:
        return Bursting() if self.last is None or self.last.burst is None else self.last.burst

    def _shown(self) -> list[Alive]:
        used: dict[str, dict[str, float]] = {}
        for record in self.groups.values():
            for name, number in record.placed:
                held = used.setdefault(name, {})
                for what, amount in record.job.each:
                    held[what] = held.get(what, 0.0) + amount * number
        shown = [head_of((self.types[self.head].hosts or ("head",))[0], self.head)]
        for name, node in self.nodes.items():
            idle_us = self.idle_us.get(name)
            held = used.get(name, {})
            shown.append(
                Alive(
                    machine=name,
                    kind=self.kinds[name],
                    total=node.total,
                    free={what: has - held.get(what, 0.0) for what, has in node.total.items()},
                    labels={**node.labels, NODE: name},
                    idle_s=None if idle_us is None else (self.clock.us - idle_us) / US_PER_S,
                )
            )
        shown += [
            Alive(machine=name, kind=self.kinds[name], total={}, free={}, dead=True)
            for name in self.dead
            if any(name in site.there for site in self.sites.values())
        ]
        return shown
