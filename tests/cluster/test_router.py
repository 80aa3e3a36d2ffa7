"""Machines of several sites: offers in order, the budget, and nothing that is lost whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlplat.cluster.router import OWN, SETTLE_S
from mlplat.errors import Unavailable
from mlplat.testing.lab import NOON, Lab

SETTLED = timedelta(seconds=SETTLE_S + 1)
WORKER = {"ray-node-type": "worker"}


def is_head(tags: Any) -> bool:
    return tags.get("ray-node-type") == "head"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.close()


def test_where_spot_is_gone_one_call_goes_on_to_the_next_zone_and_then_on_demand(lab: Lab) -> None:
    lab.cloud.capacity = {"a": 1, "b": 0}
    launch = lab.router.create(lab.spec.types["cloud.gpu"], WORKER, 3)
    assert (len(launch.names), launch.missing) == (3, 0)
    assert [row.offer for row in lab.ledger.open()] == ["spot a", "on demand", "on demand"]
    assert launch.why == ("spot a: only 1 of 3", "spot b: cloud: no machines in zone 'b'")
    assert set(lab.router.refresh()) == lab.cloud.there()


def test_own_machines_are_those_that_answer_and_each_is_taken_once(lab: Lab) -> None:
    lab.silent = {"h2"}
    first = lab.router.create(lab.spec.types["onprem.gpu"], WORKER, 2)
    assert (first.names, first.missing) == (("h1",), 1)
    again = lab.router.create(lab.spec.types["onprem.gpu"], WORKER, 1)
    assert again.why == ("hosts: all 1 hosts that answer are in the cluster; h2 do not answer",)
    lab.silent = {"h1"}
    lab.clock.advance(SETTLED)
    assert not lab.router.refresh()
    assert lab.router.create(lab.spec.types["onprem.gpu"], WORKER, 2).names == ("h2",)
    assert set(lab.start().refresh()) == {"h2"}


def test_a_head_is_never_ended_by_its_cluster(lab: Lab) -> None:
    name = lab.router.create(lab.spec.types["cloud.gpu"], {"ray-node-type": "head"}, 1).names[0]
    worker = lab.router.create(lab.spec.types["cloud.gpu"], WORKER, 1).names[0]
    lab.router.terminate([name, worker], is_head)
    assert lab.cloud.there() == {name}
    assert "a head is not ended" in lab.said[-1]


def test_a_site_that_does_not_answer_has_the_machines_that_it_had(lab: Lab) -> None:
    names = lab.router.create(lab.spec.types["cloud.gpu"], WORKER, 2).names
    lab.router.refresh()
    lab.cloud.away = True
    lab.clock.advance(SETTLED)
    assert set(lab.router.refresh()) == set(names)
    with pytest.raises(Unavailable):
        lab.router.terminate(names, is_head)
    assert len(lab.ledger.open()) == 2
    lab.cloud.away = False
    lab.router.terminate(names, is_head)
    assert not lab.ledger.open()


def test_a_machine_that_was_given_back_is_not_taken_for_a_new_one_while_its_site_still_lists_it(lab: Lab) -> None:
    (name,) = lab.router.create(lab.spec.types["cloud.gpu"], WORKER, 1).names
    lab.router.terminate([name], is_head)
    lab.cloud.made[name].ended = False  # its site lists it still
    assert not lab.router.refresh()
    assert not lab.ledger.open()
    lab.clock.advance(SETTLED)  # it was not ended after all
    assert set(lab.router.refresh()) == {name}
    assert [row.machine for row in lab.ledger.open()] == [name]


def test_a_machine_that_is_not_listed_at_once_is_waited_for(lab: Lab) -> None:
    lab.cloud.hides = True
    (name,) = lab.router.create(lab.spec.types["cloud.gpu"], WORKER, 1).names
    assert not lab.start().refresh()[name].running
    lab.cloud.show()
    assert lab.router.refresh()[name].running
    lab.cloud.lose(name)
    assert not lab.router.refresh()
    assert not lab.ledger.open()


@pytest.mark.parametrize("came", [True, False])
def test_where_no_answer_came_the_machines_are_counted_and_not_bought_twice(lab: Lab, came: bool) -> None:
    lab.cloud.faults.extend(["lost, made" if came else "lost"])
    launch = lab.router.create(lab.spec.types["cloud.gpu"], WORKER, 2)
    assert (launch.names, launch.pending, launch.missing) == ((), 2, 0)
    assert [row.state for row in lab.ledger.open()] == ["asked"] * 2
    assert lab.cloud.calls == 1
    lab.router.refresh()
    assert [row.state for row in lab.ledger.open()] == (["there"] * 2 if came else ["asked"] * 2)
    lab.clock.advance(SETTLED)
    lab.router.refresh()
    assert len(lab.ledger.open()) == (2 if came else 0)


@pytest.mark.slow
@pytest.mark.parametrize("stands", ["before create", "after create"])
def test_a_cloud_that_takes_ten_minutes_is_waited_for_and_what_it_makes_counts_meanwhile(
    tmp_path: Path, stands: str
) -> None:
    lab, began, answers = Lab(tmp_path, nodes=2), threading.Event(), threading.Event()

    def slow(where: str) -> None:
        if where == stands:
            began.set()
            assert answers.wait(60)

    cloud, lab.cloud.hook = lab.spec.types["cloud.gpu"], slow
    with ThreadPoolExecutor() as pool:
        launch = pool.submit(lab.router.create, cloud, WORKER, 2)
        assert began.wait(60)
        lab.clock.advance(timedelta(minutes=10))
        assert set(lab.router.refresh()) == lab.cloud.there()
        assert "2 bought machines run, and the budget has 2" in lab.router.create(cloud, WORKER, 1).why[0]
        answers.set()
        names = launch.result(60).names
    assert set(lab.router.refresh()) == set(names) == lab.cloud.there()
    assert sorted(row.machine or "" for row in lab.ledger.since(0)) == sorted(names)  # none twice, none taken for lost
    lab.close()


@pytest.mark.slow
@pytest.mark.parametrize("by", [timedelta(days=-1), timedelta(hours=-1), timedelta(days=1)])
def test_a_clock_that_is_set_loses_no_machine(tmp_path: Path, by: timedelta) -> None:
    lab = Lab(tmp_path, per_hour=4.0)
    cloud = lab.spec.types["cloud.gpu"]
    lost, back, stays = lab.router.create(cloud, WORKER, 3).names
    lab.router.refresh()
    lab.cloud.faults.extend(["lost"])
    assert lab.router.create(cloud, WORKER, 1).pending == 1
    lab.router.terminate([back], is_head)
    lab.clock.set(NOON + by)
    lab.cloud.made[back].ended = False  # it was not ended after all
    lab.cloud.lose(lost)
    lab.router.refresh()
    lab.clock.advance(SETTLED)
    assert set(lab.router.refresh()) == {back, stays}
    assert sorted(row.machine or "none" for row in lab.ledger.open()) == [back, stays]
    spent, _ = lab.router.spending()["hour"]
    lab.clock.advance(timedelta(minutes=30))
    assert lab.router.spending()["hour"][0] == pytest.approx(spent + 1.0)  # two at 1 an hour, whatever it was before
    lab.close()


def test_a_ledger_that_was_lost_is_filled_from_what_machines_say_of_themselves(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.router.create(lab.spec.types["cloud.gpu"], WORKER, 2)
    lab.close()
    (tmp_path / "machines.db").unlink()
    lab.start().refresh()
    assert [(row.machine, row.price, row.gpus, row.offer) for row in lab.ledger.open()] == [
        ("cloud-0", 1.0, 4.0, "spot a"),
        ("cloud-1", 1.0, 4.0, "spot a"),
    ]
    lab.close()


def test_the_budget_refuses_and_says_why_and_a_head_that_comes_back_knows_what_was_spent(tmp_path: Path) -> None:
    lab = Lab(tmp_path, per_day=10.0, nodes=3)
    cloud = lab.spec.types["cloud.gpu"]
    launch = lab.router.create(cloud, WORKER, 5)
    assert (len(launch.names), launch.missing) == (3, 2)
    assert "3 bought machines run, and the budget has 3" in launch.why[0]
    lab.clock.advance(timedelta(hours=3))
    lab.router.terminate(launch.names, is_head)
    again = lab.start().create(cloud, WORKER, 2)
    assert (len(again.names), again.missing) == (1, 1)
    assert "9.00 of 10 are spent this day" in again.why[0]
    lab.close()


class Killed(BaseException): ...


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_whatever_fails_every_machine_that_was_made_is_written_down(tmp_path: Path, seed: int) -> None:
    """Calls that fail in every way, heads that are killed before and after everything that a cloud does, spot machines that are
    taken away, clocks that are set. What is there in the end is what the ledger says, and at no time were there more than the
    budget has."""
    draw, lab = Random(seed), Lab(tmp_path, nodes=6)
    cloud = lab.spec.types["cloud.gpu"]

    def hook(where: str) -> None:
        if draw.random() < 0.08:
            raise Killed(where)

    lab.cloud.hook = hook
    lab.cloud.capacity = {"a": 2, "b": 2}
    for _ in range(250):
        lab.cloud.faults.clear()
        lab.cloud.faults.extend(
            draw.choices(["", "none", "fewer", "throttled", "lost", "lost, made"], [6, 1, 1, 1, 1, 1], k=3)
        )
        lab.cloud.away, lab.cloud.hides = draw.random() < 0.05, draw.random() < 0.1
        there = sorted(lab.cloud.there())
        try:
            step = draw.random()
            if step < 0.5:
                lab.router.create(cloud, WORKER, draw.randint(1, 3))
            elif step < 0.65 and there:
                lab.cloud.lose(draw.choice(there))
            elif step < 0.85 and there:
                lab.router.terminate(draw.sample(there, draw.randint(1, len(there))), is_head)
            else:
                lab.router.refresh()
        except Unavailable:
            pass
        except Killed:
            lab.start()
        lab.cloud.show()
        lab.clock.advance(timedelta(seconds=draw.choice([1, 5, 30, 200])))
        if draw.random() < 0.03:
            now = datetime.fromtimestamp(lab.clock.now_us() / 1e6, UTC)
            lab.clock.set(now + timedelta(hours=draw.choice([-30, -1, 1, 30])))
        assert len(lab.cloud.there()) <= 6
    lab.cloud.away, lab.cloud.hook = False, lambda where: None
    lab.start().refresh()
    lab.clock.advance(SETTLED)
    lab.router.refresh()
    rows = lab.ledger.open()
    assert {row.machine for row in rows} == lab.cloud.there()
    assert len({row.machine for row in rows}) == len(rows)
    known = {row.machine for row in lab.ledger.since(0)}
    launches = {row.launch for row in lab.ledger.since(0)}
    for name, made in lab.cloud.made.items():
        assert name in known or made.tags["mlplat-launch"] in launches
    assert all(row.site != OWN for row in rows)
    lab.close()
