"""When a job goes to bought machines, and when it comes back."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.jobs.cloud import NODE, Cloud, Kind, selector
from mlplat.jobs.job import Tenant
from mlplat.jobs.record import HOLDS, Record
from mlplat.jobs.rules import Rules
from tests.jobs import support
from tests.jobs.support import FULL, MINE, NOW_US, US, bought, queued, running

ONE = Kind(name="c", total={"GPU": 1.0}, labels={"site": "cloud"}, most=16)
CLOUD = Cloud(kinds=(ONE,), own=(MINE,), most=16, wait_s=3_600)
turned, burst = partial(support.turned, cloud=CLOUD), partial(support.burst, cloud=CLOUD)
HALF_S = 1_800
"""How long half of the own machines waits."""


def test_a_job_waits_for_own_machines_as_long_as_it_is_large_and_then_asks_for_bought_ones() -> None:
    assert not burst(FULL, queued("b", 4, ago_s=HALF_S - 1)).machines
    found = turned(FULL, queued("b", 4, ago_s=HALF_S + 1))
    assert found.burst is not None
    assert found.burst.machines == {"c": 4}
    assert found.burst.asked == {"b": {"c": 4}}
    (hold,) = found.holds.values()
    assert hold.reason == "own machines are taken; the cloud is asked for 4 x c"
    assert burst(FULL, queued("s", 1, ago_s=HALF_S / 4 + 1)).machines == {"c": 1}


def test_what_fits_on_no_own_machines_does_not_wait_for_them() -> None:
    assert burst(queued("wide", 9)).machines == {"c": 9}


def test_own_machines_that_are_not_there_yet_are_waited_for() -> None:
    assert not burst(queued("b", 4), own=()).machines
    assert burst(queued("b", 4, ago_s=HALF_S + 1), own=()).machines == {"c": 4}


def test_while_bought_machines_come_own_ones_that_are_free_are_taken_first() -> None:
    found = turned(queued("b", 4, ago_s=HALF_S + 1), machines=bought(ONE, 4))
    assert found.changed["b"].placed == (("h0", 4),)
    assert found.burst is not None
    assert not found.burst.machines


def test_bought_machines_that_are_there_are_used_by_who_has_waited_and_by_nobody_else() -> None:
    waited, fresh = queued("waited", 2, ago_s=HALF_S), queued("fresh", 2)
    found = turned(FULL, fresh, waited, machines=bought(ONE, 2))
    assert found.changed["waited"].placed == (("c-0", 1), ("c-1", 1))
    assert "fresh" not in found.changed


def test_a_gang_is_not_on_own_and_bought_machines_at_once() -> None:
    half = running("half", {"h0": 4, "h1": 2}, preemptible=False)
    found = burst(half, queued("b", 4, ago_s=HALF_S + 1), machines=bought(ONE, 2))
    assert found.asked == {"b": {"c": 4}}
    assert found.machines == {"c": 4}  # with the two that are there: they are not to be given back


@pytest.mark.parametrize(("since_s", "state"), [(300, "running"), (599, "running"), (601, "stopping")])
def test_a_turn_on_bought_machines_lasts_a_slice(since_s: float, state: str) -> None:
    cloud = replace(CLOUD, most=2)
    there, wants = running("there", {"c-0": 1, "c-1": 1}, since_s=since_s), queued("b", 1, ago_s=HALF_S)
    other = replace(wants, job=replace(wants.job, tenant="b"))
    found = turned(FULL, there, other, machines=bought(ONE, 2), cloud=cloud)
    assert found.changed.get("there", there).state == state


def test_busy_machines_are_not_asked_for_again() -> None:
    there = running("there", {"c-0": 1, "c-1": 1})
    found = burst(FULL, there, queued("b", 2, ago_s=HALF_S), machines=bought(ONE, 2))
    assert (found.machines, found.busy) == ({"c": 2}, {"c-0", "c-1"})
    assert selector(ONE, found.busy) == {"site": "cloud", NODE: "!in(c-0,c-1)"}


def test_work_comes_back_when_own_machines_are_free_for_all_of_it() -> None:
    away = running("away", {f"c-{i}": 1 for i in range(4)})
    part = running("part", {"h0": 4, "h1": 1}, preemptible=False)
    assert turned(part, away, machines=bought(ONE, 4)).changed == {}
    found = turned(running("less", {"h0": 4}, preemptible=False), away, machines=bought(ONE, 4))
    assert found.changed["away"].state == "stopping"
    assert "goes back to own machines" in found.changed["away"].reason


@pytest.mark.parametrize(
    "away",
    [
        running("away", {"c-0": 1}, since_s=CLOUD.stay_s - 1),
        running("away", {"c-0": 1}, preemptible=False),
    ],
)
def test_work_that_has_just_come_or_cannot_be_stopped_stays(away: Record) -> None:
    assert turned(away, machines=bought(ONE, 1)).changed == {}


def test_the_large_job_comes_back_first() -> None:
    small, large = running("small", {"c-0": 1}), running("large", {f"c-{i}": 1 for i in range(1, 5)})
    own = running("own", {"h0": 4}, preemptible=False)
    assert turned(own, small, large, machines=bought(ONE, 5)).changed.keys() == {"large"}


def test_small_work_is_sent_to_bought_machines_where_a_large_job_then_fits_on_own_ones() -> None:
    small = running("small", {"h0": 1})
    wide = queued("wide", 8, ago_s=3_601)
    assert burst(small, wide).asked == {"small": {"c": 1}}  # one machine, not eight
    assert turned(small, wide).changed == {}  # it goes on until that is there
    found = turned(small, wide, machines=bought(ONE, 1))
    assert found.changed["small"].state == "stopping"
    assert found.changed["small"].left_us == NOW_US
    after = replace(found.changed["small"].returns("queued", ""), state="queued", placed=())
    then = turned(after, wide, machines=bought(ONE, 1))
    assert {name: one.placed for name, one in then.changed.items()} == {
        "small": (("c-0", 1),),
        "wide": (("h0", 4), ("h1", 4)),
    }
    assert not then.changed["small"].left_us


def test_a_large_job_in_the_cloud_and_small_ones_on_own_machines_change_places() -> None:
    small, large = running("small", {"h0": 1}), running("large", {f"c-{i}": 1 for i in range(8)})
    found = turned(small, large, machines=bought(ONE, 8))
    assert {name: one.state for name, one in found.changed.items()} == {"small": "stopping", "large": "stopping"}
    assert found.burst is not None
    assert not found.burst.machines
    queue = {name: replace(one.returns("queued", ""), state="queued", placed=()) for name, one in found.changed.items()}
    early = turned(queue["small"], found.changed["large"], machines=bought(ONE, 8))  # large has not gone yet
    assert "small" not in early.changed
    then = turned(*queue.values(), machines=bought(ONE, 8))
    assert then.changed["small"].placed == (("c-0", 1),)
    assert then.changed["large"].placed == (("h0", 4), ("h1", 4))


def test_where_there_is_no_bought_machine_after_all_what_was_sent_may_have_own_ones() -> None:
    sent = replace(queued("small", 1), left_us=NOW_US - 60 * US)
    found = turned(sent)
    assert not found.changed["small"].left_us
    assert turned(replace(found.changed["small"])).changed["small"].placed


def test_work_of_a_higher_priority_is_not_sent_away() -> None:
    small = running("small", {"h0": 1}, priority=250)
    assert burst(small, queued("wide", 8, ago_s=3_601)).asked == {"wide": {"c": 8}}


def test_a_tenants_limit_counts_own_and_bought_machines_together() -> None:
    rules = Rules(tenants={"a": Tenant(name="a", limit={"default": {"GPU": 9}})})
    jobs = [queued("one", 1, ago_s=HALF_S), queued("two", 1, ago_s=HALF_S)]
    assert burst(FULL, *jobs, rules=rules).machines == {"c": 1}


def test_no_more_machines_are_asked_for_than_there_may_be() -> None:
    cloud = replace(CLOUD, most=5)
    there = running("there", {"c-0": 1, "c-1": 1})
    jobs = [queued("four", 4, ago_s=HALF_S + 1), queued("three", 3, ago_s=HALF_S + 1)]
    assert burst(FULL, there, *jobs, machines=bought(ONE, 2), cloud=cloud).machines == {"c": 3}


def test_a_job_that_lost_its_machine_has_waited_already() -> None:
    lost = running("lost", {"c-7": 1}, since_s=10, **{"min_run_s": 1.0})
    lost = replace(lost, waited_us=HALF_S * US)
    found = turned(FULL, lost.over("queued", "its node is gone", now_us=NOW_US))
    assert found.burst is not None
    assert found.burst.asked == {"lost": {"c": 1}}


def test_what_must_be_on_own_machines_waits_for_them() -> None:
    assert not burst(FULL, queued("b", 1, ago_s=1e6, labels=(("site", "onprem"),))).machines


def test_when_the_money_is_spent_what_can_be_stopped_leaves_and_nothing_is_asked_for() -> None:
    cloud = replace(CLOUD, closed="18 of 18 are spent this day")
    stays, leaves = running("stays", {"c-0": 1}, preemptible=False), running("leaves", {"c-1": 1}, since_s=1)
    found = turned(FULL, stays, leaves, queued("waits", 1, ago_s=HALF_S), machines=bought(ONE, 2), cloud=cloud)
    assert {name: one.state for name, one in found.changed.items()} == {"leaves": "stopping"}
    assert found.changed["leaves"].reason == "it leaves the cloud: 18 of 18 are spent this day"
    assert found.burst is not None
    assert not found.burst.machines
    (hold,) = found.holds.values()
    assert hold.reason == "own machines are taken, and nothing is bought: 18 of 18 are spent this day"


SIZES = st.sampled_from([1, 2, 4, 8])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(SIZES, st.integers(0, 4_000), st.booleans()), max_size=5),
    st.lists(st.tuples(SIZES, st.booleans(), st.integers(0, 900)), max_size=4),
    st.lists(st.tuples(SIZES, st.integers(0, 900)), max_size=3),
    st.integers(0, 6),
)
def test_whatever_there_is_nobody_has_a_slot_twice_and_nothing_is_bought_for_what_fits(
    waiting: list[tuple[int, int, bool]], own: list[tuple[int, bool, int]], away: list[tuple[int, int]], idle: int
) -> None:
    """Checked by adding up, without the planner."""
    free = {"h0": 4, "h1": 4}
    records = [queued(f"w{i}", size, ago_s=ago, preemptible=p) for i, (size, ago, p) in enumerate(waiting)]
    for i, (size, preemptible, since) in enumerate(own):
        placed: dict[str, int] = {}
        for node in free:
            take = min(free[node], size - sum(placed.values()))
            placed |= {node: take} if take else {}
        if sum(placed.values()) == size:
            free = {node: left - placed.get(node, 0) for node, left in free.items()}
            records.append(running(f"o{i}", placed, since_s=since, preemptible=preemptible))
    number = 0
    for i, (size, since) in enumerate(away):
        records.append(running(f"a{i}", {f"c-{number + k}": 1 for k in range(size)}, since_s=since))
        number += size
    cloud = replace(CLOUD, kinds=(replace(ONE, most=30),), most=30)
    found = turned(*records, machines=bought(ONE, number + idle), cloud=cloud)
    assert found.burst is not None
    held: dict[str, int] = {}
    for record in {**{one.job.id: one for one in records}, **found.changed}.values():
        if record.state in HOLDS:
            sites = {node[0] for node, _ in record.placed}
            assert len(sites) == 1
            assert sum(count for _, count in record.placed) == record.job.least
            for node, count in record.placed:
                held[node] = held.get(node, 0) + count
    assert all(count <= (4 if node[0] == "h" else 1) for node, count in held.items())
    left = sum(4 - held.get(node, 0) for node in ("h0", "h1"))
    for name in found.burst.asked:
        record = found.changed.get(name) or next(one for one in records if one.job.id == name)
        assert record.state != "queued" or record.job.least > left
    assert sum(found.burst.machines.values()) + len(found.burst.busy) <= 30
    for lease in (*found.burst.back, *found.burst.sent):
        assert lease.job.preemptible
        assert NOW_US - lease.started_us >= cloud.stay_s * US
