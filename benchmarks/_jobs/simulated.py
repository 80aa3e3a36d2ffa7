"""Fairness, idleness and the gain of a flood, with the real plan under a simulated clock."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from benchmarks._figures import Figures, Scene
from mlplat.jobs.job import PRIORITIES, Job, Node, Pool, Tenant
from mlplat.jobs.plan import Plan, Snapshot
from mlplat.jobs.policy import Policy
from mlplat.jobs.simulation import Span, Work, simulate

US = 1_000_000
SLOTS, TENANTS, MIN_RUN_S, PERIOD_S = 8, 10, 60.0, 5.0
POOL = Pool(name="gpu", nodes=tuple(Node(id=f"n{i}", total={"GPU": 4.0}) for i in range(2)))
WEIGHTS = {f"t{i}": 2.0 if i < 2 else 1.0 for i in range(TENANTS)}


def work(name: str, tenant: str, seconds: float, *, at_s: float = 0.0, **given: int | bool) -> Work:
    job = Job(
        id=name,
        tenant=tenant,
        pool="gpu",
        submitted_us=round(at_s * US),
        each=(("GPU", 1.0),),
        min_run_s=MIN_RUN_S,
        **given,  # type: ignore[arg-type]
    )
    return Work(job=job, bundle_s=seconds * job.count)


def shared(scene: Scene) -> Mapping[str, Figures]:
    """Ten tenants of two weights who always want more than there is; each has jobs of another length, from one minute to a day,
    and half of them come an hour after the others."""
    rng, hours = random.Random(7), scene.size(48, 3)
    tenants = {name: Tenant(name=name, weight=weight) for name, weight in WEIGHTS.items()}
    works = []
    for i, name in enumerate(tenants):
        longest = 60.0 * 2 ** (i + 1)
        for k in range(round(3_600 * hours * SLOTS / longest) + SLOTS):
            at_s = 3_600.0 * (i % 2)
            works.append(work(f"{name}.{k:05}", name, rng.uniform(longest / 2, longest), at_s=at_s))
    until_us = hours * 3_600 * US
    spans = simulate(works, [POOL], tenants, Policy(), until_us=until_us, period_s=PERIOD_S)
    both = [_cut(span, 3_600 * US) for span in spans if span.ended_us > 3_600 * US]
    service = [seconds / WEIGHTS[name] for name, seconds in _service(both).items()]
    return {
        "jain_simulated": Figures(ours=jain(service + [0.0] * (TENANTS - len(service)))),
        "off_share": Figures(ours=_longest_off(spans, until_us) / MIN_RUN_S),
    }


def jain(service: Sequence[float]) -> float:
    """1: all have the same; 1/n: one has everything (Jain, Chiu and Hawe, 1984)."""
    return sum(service) ** 2 / (len(service) * sum(one * one for one in service))


def idle(scene: Scene) -> Figures:
    """Slot-seconds of a day in which slots lay idle for longer than a control period, while something that fits waited: gangs of
    one to eight, of all priorities, one in five not preemptible."""
    rng, count = random.Random(11), scene.size(2_000, 100)
    works = []
    for i in range(count):
        size = rng.choice([1, 1, 1, 2, 4, 8])
        at_s, seconds = rng.uniform(0, 86_400 * count / 2_000), rng.expovariate(1 / 120)
        priority, preemptible = rng.choice(list(PRIORITIES.values())), rng.random() < 0.8
        given = {"least": size, "count": size, "priority": priority, "preemptible": preemptible}
        works.append(work(f"j{i:05}", f"t{rng.randrange(TENANTS)}", seconds, at_s=at_s, **given))
    watch = _Idle()
    simulate(sorted(works, key=lambda w: w.job.submitted_us), [POOL], {}, Policy(), observe=watch.see)
    return Figures(ours=watch.slot_s)


def flood(scene: Scene) -> Figures:
    """Slot-seconds of a tenant with a thousand jobs, over those of one with ten, while both want all slots."""
    each = scene.size(1_000, 100)
    works = [work(f"many.{i:04}", "many", 72_000 / each) for i in range(each)]
    works += [work(f"few.{i:02}", "few", 7_200) for i in range(10)]
    spans = simulate(works, [POOL], {}, Policy())
    few = sorted(span.ended_us for span in spans if span.job.tenant == "few" and not span.stopped)
    many = sorted(span.ended_us for span in spans if span.job.tenant == "many" and not span.stopped)
    ended = min(few[-SLOTS // 2], many[-SLOTS // 2])  # from then on one of them has not enough for its half
    service = _service(simulate(works, [POOL], {}, Policy(), until_us=ended))
    return Figures(ours=service["many"], reference=service["few"])


class _Idle:
    def __init__(self) -> None:
        self.slot_s, self._since_us, self._slots = 0.0, 0, 0

    def see(self, snapshot: Snapshot, found: Plan, now_us: int) -> None:
        for_us = now_us - self._since_us - PERIOD_S * US
        self.slot_s += max(0.0, for_us / US) * self._slots
        taken: dict[str, int] = defaultdict(int)
        for placed in (*(lease.placed for lease in snapshot.leases), *(admit.placed for admit in found.admits)):
            for node, count in placed:
                taken[node] += count
        free = sum(round(node.total["GPU"]) - taken[node.id] for node in POOL.nodes)
        begun = {admit.job.id for admit in found.admits}
        draining = bool(found.evictions) or any(lease.draining for lease in snapshot.leases)
        fits = any(job.least <= free for job in snapshot.waiting if job.id not in begun and job.preemptible)
        self._since_us, self._slots = now_us, free if fits and not draining else 0


def _cut(span: Span, from_us: int) -> Span:
    return Span(
        job=span.job,
        size=span.size,
        began_us=max(span.began_us, from_us),
        ended_us=span.ended_us,
        stopped=span.stopped,
    )


def _service(spans: Iterable[Span]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for span in spans:
        found[span.job.tenant] += (span.ended_us - span.began_us) / US * span.size
    return found


def _longest_off(spans: Sequence[Span], until_us: int) -> float:
    """Seconds that a tenant was, without a break, more than a slot away from its share among those who had come."""
    changes: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for span in spans:
        changes[span.began_us][span.job.tenant] += span.size
        changes[span.ended_us][span.job.tenant] -= span.size
    changes[3_600 * US]  # the others come
    held: dict[str, int] = defaultdict(int)
    since: dict[str, int] = {}
    longest = 0
    for now_us in sorted(at for at in changes if at <= until_us):
        for name, change in changes[now_us].items():
            held[name] += change
        here = [name for i, name in enumerate(WEIGHTS) if now_us >= 3_600 * US * (i % 2)]
        total = sum(WEIGHTS[name] for name in here)
        for name in here:
            off = abs(held[name] - SLOTS * WEIGHTS[name] / total) > 1 + 1e-9
            if off and name not in since:
                since[name] = now_us
            if not off and name in since:
                longest = max(longest, now_us - since.pop(name))
    return max([longest, *(until_us - at for at in since.values())]) / US
