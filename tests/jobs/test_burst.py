"""When a job goes to bought machines, and when it comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.jobs.burst import Bursting
from mlplat.jobs.cloud import NODE, Cloud, Kind, selector
from mlplat.jobs.job import Job, Node, Pool, Tenant
from mlplat.jobs.record import HOLDS, Command, Record
from mlplat.jobs.rules import Rules
from mlplat.jobs.turn import Seen, Turn, turn
from mlplat.jobs.usage import Usage

US = 1_000_000
NOW_US = 100_000 * US
OWN = tuple(Node(id=f"h{i}", total={"GPU": 4.0}, labels={"site": "onprem"}) for i in range(2))
ONE = Kind(name="cloud.gpu", total={"GPU": 1.0}, labels={"site": "cloud"}, most=16)
MINE = Kind(name="onprem.gpu", total={"GPU": 4.0}, labels={"site": "onprem"}, most=2)
CLOUD = Cloud(kinds=(ONE,), own=(MINE,), most=16, wait_s=3_600)
HALF_S = 1_800
"""How long half of the own machines waits."""


def job(name: str, gpus: int, *, ago_s: float = 0.0, **given: Any) -> Job:
    return Job(
        id=name,
        tenant="a",
        pool="default",
        submitted_us=NOW_US - round(ago_s * US),
        each=(("GPU", 1.0),),
        count=gpus,
        least=gpus,
        **given,
    )


def queued(name: str, gpus: int, **given: Any) -> Record:
    return Record(job=job(name, gpus, **given), name=name, command=Command(arguments=(), folder=""))


def running(name: str, placed: dict[str, int], *, since_s: float = 600.0, **given: Any) -> Record:
    one = queued(name, sum(placed.values()), ago_s=since_s, **given)
    return one.given(tuple(placed.items()), backfill=False, now_us=NOW_US - round(since_s * US)).runs()


def bought(count: int) -> tuple[Node, ...]:
    return tuple(Node(id=f"c{i}", total=ONE.total, labels=ONE.labels) for i in range(count))


def turned(
    *records: Record, machines: int = 0, cloud: Cloud = CLOUD, rules: Rules | None = None, own: Sequence[Node] = OWN
) -> Turn:
    known = {record.job.id: record for record in records}
    seen = Seen(
        pools=(Pool(name="default", nodes=(*own, *bought(machines))),),
        groups={record.group: "ready" for record in records if record.state in HOLDS},
        runs={record.group: None for record in records if record.state in HOLDS},
        cloud=cloud,
    )
    return turn(known, seen, rules or Rules(), Usage(), {}, now_us=NOW_US)


def burst(*records: Record, **given: Any) -> Bursting:
    found = turned(*records, **given).burst
    assert found is not None
    return found


FULL = running("full", {"h0": 4, "h1": 4}, preemptible=False)


def test_a_job_waits_for_own_machines_as_long_as_it_is_large_and_then_asks_for_bought_ones() -> None:
    assert not burst(FULL, queued("b", 4, ago_s=HALF_S - 1)).machines
    found = turned(FULL, queued("b", 4, ago_s=HALF_S + 1))
    assert found.burst is not None
    assert found.burst.machines == {"cloud.gpu": 4}
    assert found.burst.asked == {"b": {"cloud.gpu": 4}}
    (hold,) = found.holds.values()
    assert hold.reason == "own machines are taken; the cloud is asked for 4 x cloud.gpu"
    assert burst(FULL, queued("s", 1, ago_s=HALF_S / 4 + 1)).machines == {"cloud.gpu": 1}


def test_what_fits_on_no_own_machines_does_not_wait_for_them() -> None:
    assert burst(queued("wide", 9)).machines == {"cloud.gpu": 9}


def test_own_machines_that_are_not_there_yet_are_waited_for() -> None:
    assert not burst(queued("b", 4), own=()).machines
    assert burst(queued("b", 4, ago_s=HALF_S + 1), own=()).machines == {"cloud.gpu": 4}


def test_while_bought_machines_come_own_ones_that_are_free_are_taken_first() -> None:
    found = turned(queued("b", 4, ago_s=HALF_S + 1), machines=4)
    assert found.changed["b"].placed == (("h0", 4),)
    assert found.burst is not None
    assert not found.burst.machines


def test_bought_machines_that_are_there_are_used_by_who_has_waited_and_by_nobody_else() -> None:
    waited, fresh = queued("waited", 2, ago_s=HALF_S), queued("fresh", 2)
    found = turned(FULL, fresh, waited, machines=2)
    assert found.changed["waited"].placed == (("c0", 1), ("c1", 1))
    assert "fresh" not in found.changed


def test_a_gang_is_not_on_own_and_bought_machines_at_once() -> None:
    half = running("half", {"h0": 4, "h1": 2}, preemptible=False)
    found = burst(half, queued("b", 4, ago_s=HALF_S + 1), machines=2)
    assert found.asked == {"b": {"cloud.gpu": 4}}
    assert found.machines == {"cloud.gpu": 4}  # with the two that are there: they are not to be given back


def test_busy_machines_are_not_asked_for_again() -> None:
    there = running("there", {"c0": 1, "c1": 1})
    found = burst(FULL, there, queued("b", 2, ago_s=HALF_S), machines=2)
    assert (found.machines, found.busy) == ({"cloud.gpu": 2}, {"c0", "c1"})
    assert selector(ONE, found.busy) == {"site": "cloud", NODE: "!in(c0,c1)"}


def test_work_comes_back_when_own_machines_are_free_for_all_of_it() -> None:
    away = running("away", {f"c{i}": 1 for i in range(4)})
    part = running("part", {"h0": 4, "h1": 1}, preemptible=False)
    assert turned(part, away, machines=4).changed == {}
    found = turned(running("less", {"h0": 4}, preemptible=False), away, machines=4)
    assert found.changed["away"].state == "stopping"
    assert "goes back to own machines" in found.changed["away"].reason


@pytest.mark.parametrize(
    "away",
    [
        running("away", {"c0": 1}, since_s=CLOUD.stay_s - 1),
        running("away", {"c0": 1}, preemptible=False),
    ],
)
def test_work_that_has_just_come_or_cannot_be_stopped_stays(away: Record) -> None:
    assert turned(away, machines=1).changed == {}


def test_the_large_job_comes_back_first() -> None:
    small, large = running("small", {"c0": 1}), running("large", {f"c{i}": 1 for i in range(1, 5)})
    own = running("own", {"h0": 4}, preemptible=False)
    assert turned(own, small, large, machines=5).changed.keys() == {"large"}


def test_small_work_is_sent_to_bought_machines_where_a_large_job_then_fits_on_own_ones() -> None:
    small = running("small", {"h0": 1})
    wide = queued("wide", 8, ago_s=3_601)
    assert burst(small, wide).asked == {"small": {"cloud.gpu": 1}}  # one machine, not eight
    assert turned(small, wide).changed == {}  # it goes on until that is there
    found = turned(small, wide, machines=1)
    assert found.changed["small"].state == "stopping"
    assert found.changed["small"].left_us == NOW_US
    after = replace(found.changed["small"].returns("queued", ""), state="queued", placed=())
    then = turned(after, wide, machines=1)
    assert {name: one.placed for name, one in then.changed.items()} == {
        "small": (("c0", 1),),
        "wide": (("h0", 4), ("h1", 4)),
    }
    assert not then.changed["small"].left_us


def test_a_large_job_in_the_cloud_and_small_ones_on_own_machines_change_places() -> None:
    small, large = running("small", {"h0": 1}), running("large", {f"c{i}": 1 for i in range(8)})
    found = turned(small, large, machines=8)
    assert {name: one.state for name, one in found.changed.items()} == {"small": "stopping", "large": "stopping"}
    assert found.burst is not None
    assert not found.burst.machines
    queue = {name: replace(one.returns("queued", ""), state="queued", placed=()) for name, one in found.changed.items()}
    early = turned(queue["small"], found.changed["large"], machines=8)  # large has not gone yet
    assert "small" not in early.changed
    then = turned(*queue.values(), machines=8)
    assert then.changed["small"].placed == (("c0", 1),)
    assert then.changed["large"].placed == (("h0", 4), ("h1", 4))


def test_where_there_is_no_bought_machine_after_all_what_was_sent_may_have_own_ones() -> None:
    sent = replace(queued("small", 1), left_us=NOW_US - 60 * US)
    found = turned(sent)
    assert not found.changed["small"].left_us
    assert turned(replace(found.changed["small"])).changed["small"].placed


def test_work_of_a_higher_priority_is_not_sent_away() -> None:
    small = running("small", {"h0": 1}, priority=250)
    assert burst(small, queued("wide", 8, ago_s=3_601)).asked == {"wide": {"cloud.gpu": 8}}


def test_a_tenants_limit_counts_own_and_bought_machines_together() -> None:
    rules = Rules(tenants={"a": Tenant(name="a", limit={"default": {"GPU": 9}})})
    jobs = [queued("one", 1, ago_s=HALF_S), queued("two", 1, ago_s=HALF_S)]
    assert burst(FULL, *jobs, rules=rules).machines == {"cloud.gpu": 1}


def test_no_more_machines_are_asked_for_than_there_may_be() -> None:
    cloud = replace(CLOUD, most=5)
    there = running("there", {"c0": 1, "c1": 1})
    jobs = [queued("four", 4, ago_s=HALF_S + 1), queued("three", 3, ago_s=HALF_S + 1)]
    assert burst(FULL, there, *jobs, machines=2, cloud=cloud).machines == {"cloud.gpu": 3}


def test_a_job_that_lost_its_machine_has_waited_already() -> None:
    lost = running("lost", {"c7": 1}, since_s=10, **{"min_run_s": 1.0})
    lost = replace(lost, waited_us=HALF_S * US)
    found = turned(FULL, lost.over("queued", "its node is gone", now_us=NOW_US))
    assert found.burst is not None
    assert found.burst.asked == {"lost": {"cloud.gpu": 1}}


def test_what_must_be_on_own_machines_waits_for_them() -> None:
    assert not burst(FULL, queued("b", 1, ago_s=1e6, labels=(("site", "onprem"),))).machines


def test_when_the_money_is_spent_what_can_be_stopped_leaves_and_nothing_is_asked_for() -> None:
    cloud = replace(CLOUD, closed="18 of 18 are spent this day")
    stays, leaves = running("stays", {"c0": 1}, preemptible=False), running("leaves", {"c1": 1}, since_s=1)
    found = turned(FULL, stays, leaves, queued("waits", 1, ago_s=HALF_S), machines=2, cloud=cloud)
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
        records.append(running(f"a{i}", {f"c{number + k}": 1 for k in range(size)}, since_s=since))
        number += size
    cloud = replace(CLOUD, kinds=(replace(ONE, most=30),), most=30)
    found = turned(*records, machines=number + idle, cloud=cloud)
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
