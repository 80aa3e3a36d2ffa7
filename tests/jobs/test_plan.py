"""The plan: what it must never do, whatever is asked for."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplat.jobs.job import PRIORITIES, Job, Lease, Node, Pool, Tenant
from mlplat.jobs.plan import Plan, Snapshot, plan
from mlplat.jobs.policy import LAST, Policy
from mlplat.jobs.simulation import Span, Work, simulate

US = 1_000_000
AT_ONCE = ("it has a higher priority", "idle work gives way", "it was lent slots", "its tenant is below its quota")
POLICY = Policy(slice_s=20.0)
MONTH_US = 30 * 86_400 * US


def job(name: str, tenant: str = "a", **given: Any) -> Job:
    values: dict[str, Any] = {"pool": "gpu", "submitted_us": 0, "each": (("GPU", 1.0),), "min_run_s": 10.0}
    return Job(id=name, tenant=tenant, **{**values, **given})


def pool(*nodes: float) -> Pool:
    return Pool(name="gpu", nodes=tuple(Node(id=f"n{i}", total={"GPU": size}) for i, size in enumerate(nodes)))


def lease(what: Job, started_s: float = 0.0, node: str = "n0", **given: Any) -> Lease:
    return Lease(job=what, placed=((node, what.count),), started_us=round(started_s * US), **given)


def planned(snapshot: Snapshot, now_s: float = 1_000.0, policy: Policy = POLICY) -> Plan:
    return plan(snapshot, policy, now_us=round(now_s * US))


def asked(nodes: Pool, *, leases: Any = (), waiting: Any = (), tenants: Any = (), usage: Any = ()) -> Snapshot:
    return Snapshot(
        pools=(nodes,),
        tenants={tenant.name: tenant for tenant in tenants},
        leases=tuple(leases),
        waiting=tuple(waiting),
        usage={("gpu", name): seconds for name, seconds in dict(usage).items()},
    )


def admitted(found: Plan) -> list[str]:
    return [admit.job.id for admit in found.admits]


def evicted(found: Plan) -> list[str]:
    return [evict.lease.job.id for evict in found.evictions]


def test_tenants_take_turns_whoever_asked_first() -> None:
    waiting = [job(f"a{i}", "a") for i in range(9)] + [job(f"b{i}", "b", submitted_us=5) for i in range(2)]
    assert admitted(planned(asked(pool(4), waiting=waiting))) == ["a0", "b0", "a1", "b1"]


def test_weights_are_shares() -> None:
    waiting = [job(f"{name}{i}", name) for name in ("a", "b") for i in range(8)]
    found = planned(asked(pool(8), waiting=waiting, tenants=[Tenant(name="b", weight=3.0)]))
    assert Counter(name[0] for name in admitted(found)) == {"b": 6, "a": 2}


def test_a_quota_comes_before_fairness_and_a_limit_holds_in_an_empty_pool() -> None:
    waiting = [job(f"{name}{i}", name) for name in ("a", "b") for i in range(8)]
    guaranteed = [Tenant(name="b", quota={"gpu": {"GPU": 7}})]
    assert Counter(n[0] for n in admitted(planned(asked(pool(8), waiting=waiting, tenants=guaranteed)))) == {
        "b": 7,
        "a": 1,
    }
    limited = asked(pool(8), waiting=waiting[:8], tenants=[Tenant(name="a", limit={"gpu": {"GPU": 3}})])
    found = planned(limited)
    assert admitted(found) == ["a0", "a1", "a2"]
    (hold,) = found.holds.values()
    assert hold.reason == "'a' would have 4 GPU, over its limit of 3"


def test_a_quota_counts_for_what_has_its_resource_whatever_else_that_has() -> None:
    both = Pool(name="gpu", nodes=(Node(id="n0", total={"GPU": 2.0, "CPU": 8.0}),))
    each = (("CPU", 4.0), ("GPU", 1.0))
    waiting = [job(f"{name}{i}", name, each=each) for name in ("a", "b") for i in range(2)]
    guaranteed = [Tenant(name="b", quota={"gpu": {"GPU": 2}})]
    assert admitted(planned(asked(both, waiting=waiting, tenants=guaranteed))) == ["b0", "b1"]
    running = [lease(one, 999) for one in waiting[:2]]
    assert sorted(evicted(planned(asked(both, leases=running, waiting=waiting[2:], tenants=guaranteed)))) == [
        "a0",
        "a1",
    ]
    theirs = [lease(one, 999) for one in waiting[2:]]
    assert evicted(planned(asked(both, leases=theirs, waiting=waiting[:2], tenants=guaranteed))) == []
    cores = job("cores", "b", each=(("CPU", 4.0),))  # no quota is for these
    assert evicted(planned(asked(both, leases=running, waiting=[cores], tenants=guaranteed))) == []


def test_production_takes_slots_at_once_from_the_lowest_and_youngest_and_no_more_than_it_needs() -> None:
    leases = [
        lease(job("normal", "b"), 999),
        lease(job("old", "b", priority=PRIORITIES["explore"]), 0),
        lease(job("young", "c", priority=PRIORITIES["explore"]), 999),
        lease(job("kept", "c", priority=PRIORITIES["explore"], preemptible=False), 999),
    ]
    urgent = job("now", "a", priority=PRIORITIES["production"])
    found = planned(asked(pool(4), leases=leases, waiting=[urgent]))
    assert (admitted(found), evicted(found)) == ([], ["young"])
    assert found.evictions[0].reason == "it has a higher priority"
    draining = [*leases[:2], replace(leases[2], draining=True), leases[3]]
    again = planned(asked(pool(4), leases=draining, waiting=[urgent]))
    assert (admitted(again), evicted(again), again.holds) == ([], [], found.holds)
    assert admitted(planned(asked(pool(4), leases=[*leases[:2], leases[3]], waiting=[urgent]))) == ["now"]


def test_one_that_is_enough_is_stopped_rather_than_several() -> None:
    several = [lease(job(f"s{i}", "b"), 500 + i) for i in range(4)]
    one = lease(job("wide", "c", count=4, least=4), 100, node="n1")
    wide = job("now", count=4, least=4, priority=PRIORITIES["production"])
    assert evicted(planned(asked(pool(4, 4), leases=[*several, one], waiting=[wide]))) == ["wide"]


def test_below_the_threshold_priorities_order_the_jobs_of_a_tenant_alone() -> None:
    waiting = [job("a-explore", "a", priority=PRIORITIES["explore"]), job("b-normal", "b", submitted_us=1)]
    waiting += [job("a-normal", "a", submitted_us=2)]
    assert admitted(planned(asked(pool(2), waiting=waiting))) == ["a-normal", "b-normal"]
    running = lease(job("a-runs", "a", priority=PRIORITIES["explore"]))
    assert evicted(planned(asked(pool(1), leases=[running], waiting=[job("mine", "a")]))) == ["a-runs"]
    assert evicted(planned(asked(pool(1), leases=[running], waiting=[job("theirs", "b")]))) == []


def test_idle_work_fills_what_is_left_and_gives_way_at_once() -> None:
    idle = [job(f"i{i}", "a", priority=PRIORITIES["idle"]) for i in range(3)]
    assert admitted(planned(asked(pool(3), waiting=[*idle, job("work", "a", submitted_us=9)]))) == ["work", "i0", "i1"]
    running = [lease(one, 999 + i / 10) for i, one in enumerate(idle)]
    assert evicted(planned(asked(pool(3), leases=running, waiting=[job("other", "b")]))) == ["i2"]


def test_who_has_more_than_a_share_gives_it_after_the_minimum_run_time_and_keeps_an_equal_one() -> None:
    leases = [lease(job(f"a{i}", "a"), 990 + i) for i in range(4)]
    waiting = [job(f"b{i}", "b") for i in range(4)]
    assert evicted(planned(asked(pool(4), leases=leases, waiting=waiting), now_s=999)) == []
    assert evicted(planned(asked(pool(4), leases=leases, waiting=waiting[:1]), now_s=1_001)) == ["a1"]
    found = planned(asked(pool(4), leases=leases, waiting=waiting), now_s=1_100)
    assert evicted(found) == ["a3", "a2"]


def test_a_gang_gets_all_of_its_slots_or_none_and_two_cannot_lock_each_other() -> None:
    gangs = [job("g1", "a", count=3, least=3), job("g2", "b", count=3, least=3)]
    assert admitted(planned(asked(pool(2, 2), waiting=gangs))) == ["g1"]
    found = planned(asked(pool(2, 2), waiting=[job("g", count=5, least=5)]))
    assert (admitted(found), len(found.holds)) == ([], 1)


def test_slots_that_a_wide_job_waits_for_are_lent_to_what_can_be_stopped_and_come_back() -> None:
    kept = lease(job("kept", "b", preemptible=False))
    wide = job("wide", "a", count=4, least=4)
    later = [job("no", "c", preemptible=False), job("yes", "d")]
    found = planned(asked(pool(4), leases=[kept], waiting=[wide, *later], usage={"a": -1_000.0}))
    assert [(a.job.id, a.backfill) for a in found.admits] == [("yes", True)]
    lent = lease(job("yes", "d"), 999.9, backfill=True)
    assert (
        evicted(planned(asked(pool(4), leases=[kept, lent], waiting=[wide]))) == []
    )  # not enough: it would be for nothing
    assert evicted(planned(asked(pool(4), leases=[lent], waiting=[wide]))) == ["yes"]


def test_an_elastic_job_takes_what_is_free_and_no_more_than_its_share_beyond_its_least() -> None:
    def size(nodes: Pool, *waiting: Job) -> dict[str, int]:
        found = planned(asked(nodes, waiting=waiting))
        return {admit.job.id: sum(n for _, n in admit.placed) for admit in found.admits}

    assert size(pool(4, 4), job("e", least=1, count=6)) == {"e": 6}
    others = [job(f"o{i}", "b", submitted_us=1) for i in range(8)]
    assert size(pool(8), job("e", least=1, count=8), *others[:1]) == {"e": 7, "o0": 1}
    assert size(pool(8), job("e", least=1, count=8), *others) == {"e": 4, "o0": 1, "o1": 1, "o2": 1, "o3": 1}
    assert size(pool(2), job("e", least=1, count=8)) == {"e": 2}


def test_who_has_nothing_takes_from_who_used_more_even_where_shares_cannot_be_equal() -> None:
    leases = [lease(job(f"{name}0", name), 0) for name in "ab"]
    waiting = [job("c0", "c")]
    usage = {"a": 100.0, "b": 120.0, "c": 100.0}
    assert evicted(planned(asked(pool(2), leases=leases, waiting=waiting, usage=usage))) == ["b0"]
    usage["b"] = 105.0
    assert evicted(planned(asked(pool(2), leases=leases, waiting=waiting, usage=usage))) == []


def test_a_turn_lasts_a_slice_and_who_has_just_a_fair_share_keeps_it() -> None:
    wide, fair, small = (job(name, name, count=size, least=size) for name, size in (("a", 4), ("b", 2), ("c", 1)))
    turn = {"leases": [lease(wide, 985.0)], "waiting": [fair, small], "tenants": [Tenant(name=name) for name in "abc"]}
    assert evicted(planned(asked(pool(6), **turn, usage={"b": 1.0}), now_s=1_000)) == []  # it used less lately than b
    assert evicted(planned(asked(pool(4), **turn, usage={"b": 1.0, "c": 1.0}), now_s=1_000)) == []
    assert evicted(planned(asked(pool(4), **turn, usage={"b": 1.0, "c": 1.0}), now_s=1_006)) == ["a"]
    assert evicted(planned(asked(pool(4), **turn, usage={"a": 2.0}), now_s=1_000)) == ["a"]
    full = [lease(replace(wide, preemptible=False)), lease(fair)]
    assert (
        evicted(planned(asked(pool(6), leases=full, waiting=[small], tenants=turn["tenants"], usage={"b": 1.0}))) == []
    )


def test_who_runs_because_it_is_its_turn_is_stopped_by_a_smaller_share_only_after_that() -> None:
    held = [*(lease(job(f"a{i}"), 985.0) for i in range(3)), lease(job("b0", "b"))]
    turn = {"leases": held, "waiting": [job("b1", "b")], "tenants": [Tenant(name=name) for name in "ab"]}
    assert evicted(planned(asked(pool(4), **turn, usage={"a": -6.0}), now_s=1_000)) == []
    assert evicted(planned(asked(pool(4), **turn, usage={"a": -6.0}), now_s=1_006)) == ["a0"]
    assert evicted(planned(asked(pool(4), **turn, usage={"a": -4.0}), now_s=1_000)) == ["a0"]  # a slice of a GPU is 5
    assert evicted(planned(asked(pool(4), **turn, usage={"a": -6.0, "b": -7.0}), now_s=1_000)) == ["a0"]


@pytest.mark.slow
def test_three_who_do_not_fit_together_take_turns_and_not_a_turn_a_minute() -> None:
    works = [
        Work(
            job=job(name, name, count=size, least=size, submitted_us=at * 60 * US, min_run_s=60.0),
            bundle_s=size * 8 * 3_600.0,
        )
        for at, (name, size) in enumerate((("a", 16), ("b", 8), ("c", 4)))
    ]
    spans = simulate(works, [pool(24)], {name: Tenant(name=name) for name in "abc"}, Policy(), until_us=8 * 3_600 * US)
    assert sum(span.stopped for span in spans) < 80  # eight hours are 48 slices; it was 862
    assert all(sum(s.ended_us - s.began_us for s in spans if s.job.id == name) > 3 * 3_600 * US for name in "abc")


def test_labels_and_resources_that_no_node_has_are_said() -> None:
    found = planned(asked(pool(4), waiting=[job("l", labels=(("site", "x"),)), job("r", "b", each=(("FPGA", 1.0),))]))
    assert sorted(hold.reason for hold in found.holds.values()) == [
        "1 x {'FPGA': 1.0} fit on no nodes that 'gpu' has now",
        "1 x {'GPU': 1.0} fit on no nodes that 'gpu' has now",
    ]
    (empty,) = planned(asked(pool(), waiting=[job("e")])).holds.values()
    assert empty.reason == "1 x {'GPU': 1.0} fit on no nodes that 'gpu' has now"
    elsewhere = planned(asked(pool(4), waiting=[job("p", pool="tpu")]))
    assert [hold.reason for hold in elsewhere.holds.values()] == ["there is no pool 'tpu' now"]


# Whatever is asked for

TENANTS = "abc"
amounts = st.sampled_from([0.0, 1.0, 2.0])
SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Work], Pool, dict[str, Tenant]]:
    nodes = pool(*map(float, draw(SIZES)))
    slots, largest = sum(int(n.total["GPU"]) for n in nodes.nodes), 4
    tenants, left = {}, float(slots)
    for name in TENANTS:
        quota = min(left, draw(amounts))
        left -= quota
        tenants[name] = Tenant(
            name=name,
            weight=draw(st.sampled_from([0.5, 1.0, 2.0])),
            quota={"gpu": {"GPU": quota}} if quota else {},
            limit=draw(st.sampled_from([{}, {}, {"gpu": {"GPU": 5.0}}])),
        )
    works = []
    for i in range(draw(st.integers(1, 12))):
        least = draw(st.integers(1, min(slots, largest)))
        what = job(
            f"j{i:02}",
            draw(st.sampled_from(TENANTS)),
            submitted_us=draw(st.integers(0, 60)) * US,
            least=least,
            count=draw(st.integers(least, 6)),
            priority=draw(st.sampled_from(list(PRIORITIES.values()))),
            preemptible=draw(st.sampled_from([True, True, False])),
            min_run_s=draw(st.sampled_from([0.0, 5.0, 30.0])),
        )
        works.append(Work(job=what, bundle_s=draw(st.integers(1, 200)) * 1.0))
    works.sort(key=lambda work: (work.job.submitted_us, work.job.id))
    return works, nodes, tenants


def held_by_node(leases: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in leases:
        found.update(dict(one.placed))
    return found


def fits(nodes: Pool, taken: Counter[str], what: Job) -> bool:
    return sum(max(0, int(node.total["GPU"]) - taken[node.id]) for node in nodes.nodes) >= what.least


def has(leases: Any, tenant: str, *, idle: bool = False, draining: bool = False) -> int:
    return sum(
        one.size
        for one in leases
        if one.job.tenant == tenant and (idle or POLICY.tier(one.job) > LAST) and (draining or not one.draining)
    )


def quota(tenant: Tenant) -> float:
    return tenant.quota.get("gpu", {}).get("GPU", 0.0)


def check(nodes: Pool, tenants: dict[str, Tenant], snapshot: Snapshot, found: Plan, now_us: int) -> None:
    """The rules, written as slowly and plainly as they can be."""
    assert plan(snapshot, POLICY, now_us=now_us) == found
    other_order = replace(snapshot, leases=tuple(reversed(snapshot.leases)))
    assert plan(other_order, POLICY, now_us=now_us) == found

    begun = [Lease(job=a.job, placed=a.placed, started_us=now_us, backfill=a.backfill) for a in found.admits]
    waiting_ids = [one.id for one in snapshot.waiting]
    assert len(set(admitted(found))) == len(begun)
    assert set(admitted(found)) <= set(waiting_ids)
    assert all(one.job.least <= one.size <= one.job.count for one in begun)
    running = {one.job.id: one for one in snapshot.leases}
    assert len(set(evicted(found))) == len(found.evictions)
    gone = set(evicted(found))
    for evict in found.evictions:
        was = running[evict.lease.job.id]
        assert was.job.preemptible
        assert not was.draining
        assert POLICY.tier(was.job) <= POLICY.tier(evict.by)
        if not evict.reason.startswith(AT_ONCE):
            assert now_us - was.started_us >= was.job.min_run_s * US

    after = [*snapshot.leases, *begun]
    taken = held_by_node(after)
    assert all(taken[node.id] <= node.total["GPU"] for node in nodes.nodes)
    for name, tenant in tenants.items():
        if any(one.job.tenant == name for one in begun) and tenant.limit:
            assert has(after, name, idle=True, draining=True) <= 5

    still = [one for one in snapshot.waiting if one.id not in set(admitted(found))]
    first_of = {one.group: one for one in reversed(still)}
    assert found.holds.keys() == first_of.keys()
    if gone or any(one.draining for one in snapshot.leases):
        for by, own in itertools.groupby(sorted(found.evictions, key=lambda e: e.by.id), key=lambda e: e.by.id):
            mine = {e.lease.job.id for e in own}
            if gone == mine and not any(one.draining for one in snapshot.leases) and not begun:
                what = next(e.by for e in found.evictions if e.by.id == by)
                kept_free = not what.preemptible and len(first_of) > 1  # what another waits for is not for it
                for spared in () if kept_free else mine:  # never more than needed
                    left = [one for one in snapshot.leases if one.job.id not in mine - {spared}]
                    assert not fits(nodes, held_by_node(left), what)
        return
    heads = set()
    for what in sorted(still, key=lambda one: (-one.priority, one.submitted_us, one.id)):
        tenant = tenants[what.tenant]
        if tenant.limit and has(after, what.tenant, idle=True, draining=True) + what.least > 5:
            continue
        if what.preemptible:  # nothing that fits is left idle
            assert not fits(nodes, taken, what)
        if (POLICY.tier(what), what.tenant) in heads:
            continue
        heads.add((POLICY.tier(what), what.tenant))
        if POLICY.tier(what) == LAST or has(after, what.tenant) + what.least > quota(tenant):
            continue
        if not what.preemptible and len(first_of) > 1:
            continue  # what another waits for is not for it
        for other in after:  # nobody is below its guarantee beside one who borrows what can be given back
            borrows = has(after, other.job.tenant) > quota(tenants[other.job.tenant])
            can = other.job.preemptible and POLICY.tier(other.job) <= POLICY.tier(what)
            if borrows and can and other.job.tenant != what.tenant:
                assert not fits(nodes, held_by_node([one for one in after if one is not other]), what)


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(world=worlds(), grace_s=st.sampled_from([0.0, 1.0, 7.0]))
def test_whatever_is_asked_for_the_rules_hold_and_everything_ends(world: Any, grace_s: float) -> None:
    works, nodes, tenants = world
    spans = simulate(
        works,
        [nodes],
        tenants,
        POLICY,
        until_us=MONTH_US,
        grace_s=grace_s,
        observe=lambda snapshot, found, now_us: check(nodes, tenants, snapshot, found, now_us),
    )
    own: dict[str, list[Span]] = {}
    for span in spans:
        own.setdefault(span.job.id, []).append(span)
    for work in works:
        mine = own.get(work.job.id, [])
        limit = tenants[work.job.tenant].limit.get("gpu", {}).get("GPU", 100.0)
        if work.job.least > limit:
            assert mine == []
            continue
        assert [span.stopped for span in mine] == [True] * (len(mine) - 1) + [False], "it has not ended, or twice"
        served = sum((span.ended_us - span.began_us) / US * span.size for span in mine)
        assert served >= work.bundle_s - 0.01
