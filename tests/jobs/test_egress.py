"""Where a job's data are counts in whether it goes to bought machines, to which, and when."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.jobs.burst import budget_us, own_nodes
from mlplat.jobs.cloud import Cloud, Kind
from mlplat.jobs.egress import NEVER_S, burden, egress, ways
from mlplat.jobs.job import Job
from mlplat.jobs.record import Record
from mlplat.jobs.rules import Rules
from tests.jobs import support
from tests.jobs.support import FULL, GB, MINE, US, bought, job, queued, running

HOUR_S = 3_600
HERE = Kind(name="fra", total={"GPU": 1.0}, labels={"site": "cloud", "region": "fra"}, most=16, price=2.0)
FAR = Kind(name="ohio", total={"GPU": 1.0}, labels={"site": "cloud", "region": "ohio"}, most=16, price=1.0)
CLOUD = Cloud(kinds=(FAR, HERE), own=(MINE,), most=32, egress={"onprem": 0.09, "fra": 0.02, "ohio": 0.05})
turned, burst = partial(support.turned, cloud=CLOUD), partial(support.burst, cloud=CLOUD)
ALL_OWN = own_nodes(CLOUD, Rules())["default"]


def test_what_leaves_a_place_is_paid_there_and_what_is_near_is_free() -> None:
    both = replace(job("j", 1), data=(("onprem", 100 * GB), ("fra", 50 * GB)))
    assert egress(CLOUD.egress, both, FAR.labels) == pytest.approx(100 * 0.09 + 50 * 0.02)
    assert egress(CLOUD.egress, both, HERE.labels) == pytest.approx(9)
    assert egress(CLOUD.egress, both, {"site": "onprem"}) == pytest.approx(1)
    assert egress(CLOUD.egress, job("j", 1, gb=100, at="mars"), FAR.labels) == pytest.approx(9)  # as the dearest


def test_a_job_reads_no_less_than_nothing() -> None:
    with pytest.raises(InvalidInput, match="reads less than nothing"):
        replace(job("j", 1), data=(("fra", -1),))


def test_a_job_waits_as_many_hours_more_as_its_machines_could_be_had_for_with_the_egress() -> None:
    one = replace(CLOUD, kinds=(FAR,))
    waits_s = budget_us(one, job("j", 4, gb=800), ALL_OWN) / US
    assert waits_s == pytest.approx(HOUR_S / 2 + 800 * 0.09 / 4 * HOUR_S)
    late = queued("j", 4, gb=800, ago_s=waits_s - 1)
    found = turned(FULL, late, cloud=one)
    assert found.burst is not None
    assert not found.burst.machines
    (hold,) = found.holds.values()
    assert (
        hold.reason
        == "own machines are taken; in the cloud its 800 GB would cost 72 to bring: it waits 18.5 h for own ones"
    )
    assert burst(FULL, queued("j", 4, gb=800, ago_s=waits_s + 1), cloud=one).machines == {"ohio": 4}


def test_what_fits_on_no_own_machines_goes_whatever_its_data_cost() -> None:
    assert burst(queued("wide", 9, gb=10_000)).machines == {"ohio": 9}


def test_a_job_goes_where_its_data_are_if_that_is_cheaper_than_the_cheaper_machines() -> None:
    assert burst(FULL, queued("j", 1, gb=100, at="fra", ago_s=5 * HOUR_S)).machines == {"fra": 1}
    assert burst(FULL, queued("j", 1, gb=1, at="fra", ago_s=5 * HOUR_S)).machines == {"ohio": 1}
    assert burst(FULL, queued("j", 1, ago_s=5 * HOUR_S)).machines == {"ohio": 1}


def test_where_the_cheapest_kind_has_no_room_the_next_is_taken_when_that_is_worth_it() -> None:
    there = bought(HERE, 2)
    cloud = replace(CLOUD, kinds=(FAR, replace(HERE, most=2)))
    taken = running("taken", {node.id: 1 for node in there}, preemptible=False)
    wants = queued("j", 1, gb=100, at="fra", ago_s=2 * HOUR_S)
    near, far = ways(cloud, wants.job)
    assert (near.kind, far.kind) == ("fra", "ohio")
    assert near.wait_s < 1.5 * HOUR_S < far.wait_s == pytest.approx(2 * HOUR_S)
    assert not burst(FULL, taken, wants, machines=there, cloud=cloud).machines
    late = queued("j", 1, gb=100, at="fra", ago_s=2.2 * HOUR_S)
    assert burst(FULL, taken, late, machines=there, cloud=cloud).machines == {"ohio": 1}


def test_a_machine_that_is_there_but_far_is_left_for_one_to_come_near_the_data() -> None:
    wants = queued("j", 1, gb=100, at="fra", ago_s=5 * HOUR_S)
    assert burst(FULL, wants, machines=bought(FAR, 1)).asked == {"j": {"fra": 1}}
    assert turned(FULL, queued("j", 1, ago_s=5 * HOUR_S), machines=bought(FAR, 1)).changed["j"].placed == (
        ("ohio-0", 1),
    )


def test_the_one_without_data_is_sent_though_the_one_with_data_came_later() -> None:
    wide = queued("wide", 7, ago_s=HOUR_S)
    heavy, light = running("heavy", {"h0": 1}, gb=1_000, since_s=400), running("light", {"h1": 1}, since_s=800)
    assert burst(heavy, light, wide).asked == {"light": {"ohio": 1}}
    later = running("light", {"h1": 1}, since_s=400), running("heavy", {"h0": 1}, since_s=800)
    assert burst(*later, wide).asked == {"light": {"ohio": 1}}
    alone = running("light", {"h0": 1}, gb=1_000), queued("wide", 8, ago_s=HOUR_S)
    assert burst(*alone).asked == {"wide": {"ohio": 8}}  # eight machines cost less than to bring a terabyte


def test_others_make_room_for_a_job_with_data_before_it_would_go_itself() -> None:
    light = running("light", {"h0": 4, "h1": 1})
    assert burst(light, queued("heavy", 4, gb=1_000, ago_s=HOUR_S)).asked == {"light": {"ohio": 5}}
    assert burst(light, queued("heavy", 4, ago_s=HOUR_S)).asked == {"heavy": {"ohio": 4}}


def test_what_is_in_the_cloud_has_paid_for_its_data_and_sends_nobody_larger() -> None:
    large, own = running("large", {f"ohio-{i}": 1 for i in range(4)}, gb=1_000), running("own", {"h0": 4, "h1": 1})
    found = burst(own, large, machines=bought(FAR, 9))
    assert (found.back, found.sent, found.asked) == ((), (), {})


def test_it_is_said_if_machines_near_the_data_cost_more() -> None:
    (hold,) = turned(FULL, queued("j", 1, gb=900, at="fra", ago_s=1_000)).holds.values()
    assert (
        hold.reason
        == "own machines are taken; in the cloud machines near its 900 GB cost more: it waits 1.1 h for own ones"
    )


def test_a_job_with_data_does_not_change_places_with_one_that_is_on_machines_far_from_them() -> None:
    large = running("large", {f"ohio-{i}": 1 for i in range(8)})
    light = running("small", {"h0": 1})
    assert len(burst(light, large, machines=bought(FAR, 8)).sent) == 1
    heavy = running("small", {"h0": 1}, gb=100, at="fra")
    found = burst(heavy, large, machines=bought(FAR, 8))
    assert (found.sent, found.asked) == ((), {"small": {"fra": 1}})


def test_machines_that_cost_nothing_are_never_worth_egress() -> None:
    free = replace(CLOUD, kinds=(replace(FAR, price=0.0),))
    assert budget_us(free, job("j", 1, gb=1), ALL_OWN) == round((HOUR_S / 8 + NEVER_S) * US)
    assert burden(replace(CLOUD, wait_s=0.0), job("j", 1, gb=1)) == math.inf


def test_data_divide_jobs_into_groups_and_nothing_else_does() -> None:
    assert job("a", 1).group == job("b", 1).group != job("c", 1, gb=1).group
    assert job("a", 1).kind == job("c", 1, gb=1).kind


def test_a_record_keeps_its_data_and_an_old_one_has_none() -> None:
    record = queued("j", 1, gb=2)
    assert Record.of_json(record.to_json()) == record
    old = queued("j", 1).to_json()
    del old["job"]["data"]
    assert Record.of_json(old) == queued("j", 1)


def test_a_cloud_as_it_was_written_before_is_one_without_egress() -> None:
    assert Cloud.of_json(CLOUD.to_json()) == CLOUD
    said = CLOUD.to_json()
    del said["egress"]
    for kind in (*said["kinds"], *said["own"]):
        del kind["price"]
    old = Cloud.of_json(said)
    assert (old.egress, [kind.price for kind in old.kinds]) == ({}, [0.0, 0.0])


PLACES = st.sampled_from(["onprem", "fra", "ohio", "mars"])
KINDS = st.lists(
    st.tuples(PLACES, st.sampled_from([1, 2, 4]), st.integers(0, 8), st.integers(1, 40)), min_size=1, max_size=3
)
PRICES = st.dictionaries(PLACES, st.integers(0, 20).map(lambda cents: cents / 100), min_size=1)
DATA = st.lists(st.tuples(PLACES, st.integers(0, 500)), max_size=2, unique_by=lambda pair: pair[0])


def world(kinds: list[tuple[str, int, int, int]], prices: dict[str, float], wait_s: float) -> Cloud:
    found = tuple(
        Kind(
            name=f"k{i}",
            total={"GPU": float(gpus), f"r{i}": 1.0},
            labels={"site": "cloud", "region": place},
            most=most,
            price=price / 10,
        )
        for i, (place, gpus, most, price) in enumerate(kinds)
    )
    return Cloud(kinds=found, own=(MINE,), most=20, wait_s=wait_s, egress=prices)


def cost(cloud: Cloud, kind: Kind, one: Job) -> float:
    """Added up from its definition."""
    machines = -(-one.least // int(kind.total["GPU"]))
    brings = 0.0
    for place, size in one.data:
        if place != kind.labels["region"]:
            brings += size / 1e9 * cloud.egress.get(place, max(cloud.egress.values()))
    return brings + machines * kind.price * cloud.wait_s / 3_600


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(KINDS, PRICES, DATA, st.sampled_from([1, 2, 4, 8]), st.integers(0, 7_200), st.data())
def test_no_kind_is_chosen_that_costs_more_than_the_cheapest_that_would_do(
    kinds: list[tuple[str, int, int, int]],
    prices: dict[str, float],
    data: list[tuple[str, int]],
    gpus: int,
    wait_s: int,
    draw: st.DataObject,
) -> None:
    cloud = world(kinds, prices, float(wait_s))
    busy = {kind.name: draw.draw(st.integers(0, kind.most)) for kind in cloud.kinds}
    there = tuple(node for kind in cloud.kinds for node in bought(kind, busy[kind.name]))
    taken = [running(f"t{i}", {node.id: int(node.total["GPU"])}, preemptible=False) for i, node in enumerate(there)]
    wants = queued("j", gpus, ago_s=1e6)
    wants = replace(wants, job=replace(wants.job, data=tuple((place, size * GB) for place, size in data)))
    found = burst(FULL, *taken, wants, machines=there, cloud=cloud).asked.get("j")
    room = {
        kind.name: kind
        for kind in cloud.kinds
        if -(-gpus // int(kind.total["GPU"])) <= min(kind.most - busy[kind.name], cloud.most - len(there))
    }
    if room:
        assert found is not None
    if room and wants.job.data:
        assert found is not None
        (chosen,) = found
        assert found[chosen] == -(-gpus // int(room[chosen].total["GPU"]))
        assert cost(cloud, room[chosen], wants.job) <= min(cost(cloud, k, wants.job) for k in room.values()) + 1e-9


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(KINDS, PRICES, DATA, st.integers(0, 500), PLACES, st.sampled_from([1, 2, 4, 8]), st.integers(0, 7_200))
def test_a_job_waits_no_less_the_more_it_reads(
    kinds: list[tuple[str, int, int, int]],
    prices: dict[str, float],
    data: list[tuple[str, int]],
    more: int,
    where: str,
    gpus: int,
    wait_s: int,
) -> None:
    cloud, less = world(kinds, prices, float(wait_s)), {place: size * GB for place, size in data}
    grown = less | {where: less.get(where, 0) + more * GB}
    few, many = (replace(job("j", gpus), data=tuple(read.items())) for read in (less, grown))
    assert (
        budget_us(cloud, job("j", gpus), ALL_OWN) <= budget_us(cloud, few, ALL_OWN) <= budget_us(cloud, many, ALL_OWN)
    )
    assert 1.0 <= burden(cloud, few) <= burden(cloud, many)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, 8_000)), max_size=5),
    st.lists(st.integers(1, 4), max_size=2),
)
def test_jobs_without_data_are_decided_as_if_nobody_had_said_what_egress_costs(
    waiting: list[tuple[int, int]], held: list[int]
) -> None:
    records = [queued(f"w{i}", size, ago_s=ago) for i, (size, ago) in enumerate(waiting)]
    records += [running(f"o{i}", {f"h{i}": size}) for i, size in enumerate(held)]
    read = [replace(one, job=replace(one.job, data=(("fra", 10**15),))) for one in records]
    plain = replace(CLOUD, egress={}, kinds=tuple(replace(kind, price=0.0) for kind in CLOUD.kinds))
    assert turned(*records, machines=bought(FAR, 3)) == turned(*records, machines=bought(FAR, 3), cloud=plain)
    unpriced, before = (burst(*some, machines=bought(FAR, 3), cloud=plain) for some in (read, records))
    assert (unpriced.asked, unpriced.machines) == (before.asked, before.machines)
    assert [lease.job.id for lease in unpriced.sent] == [lease.job.id for lease in before.sent]
