"""What becomes of a job, one thing that is seen after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlplat.jobs.job import Node, Pool
from mlplat.jobs.record import Record
from mlplat.jobs.rules import Rules
from mlplat.jobs.turn import PLACE_S, Exit, Launch, Place, Remove, Seen, Stop, Turn, turn
from mlplat.jobs.usage import Usage
from tests.jobs.test_leader import record

US = 1_000_000
NOW_US = 10_000 * US
POOLS = (Pool(name="default", nodes=(Node(id="n0", total={"GPU": 2.0}),)),)
RULES = Rules(grace_s=5.0)


def after(one: Record, now_s: float = 0.0, **seen: Any) -> tuple[Record, Turn]:
    found = turn(
        {one.job.id: one},
        Seen(pools=POOLS, **seen),
        RULES,
        Usage(),
        {},
        now_us=NOW_US + round(now_s * US),
    )
    return found.changed.get(one.job.id, one), found


@pytest.fixture
def placing() -> Record:
    return record("a").given((("n0", 1),), backfill=False, now_us=NOW_US)


@pytest.fixture
def running(placing: Record) -> Record:
    return placing.runs()


def test_a_job_that_has_room_is_placed_launched_and_done(placing: Record) -> None:
    now, found = after(record("a"))
    assert (now, found.effects) == (placing, [Place(record=placing)])
    assert after(now, groups={now.group: "pending"})[1].effects == []
    now, found = after(now, groups={now.group: "ready"})
    assert (now.state, found.effects) == ("running", [Launch(record=now)])
    assert after(now, groups={now.group: "ready"}, runs={now.group: None})[1].effects == []
    ended = {now.group: Exit(outcome="done", reason="")}
    now, found = after(now, groups={now.group: "ready"}, runs=ended)
    assert (now.state, found.effects) == ("returning", [Remove(group=now.group)])
    assert after(now, groups={now.group: "ready"}, runs=ended)[1].given_back == []
    now, found = after(now, now_s=60)
    assert (now.state, now.ended_us) == ("done", NOW_US + 60 * US)
    (held,) = found.given_back
    assert held.hours() == {"GPU": pytest.approx(1 / 60)}


@pytest.mark.parametrize(("group", "now_s"), [("broken", 0.0), ("pending", PLACE_S + 1)])
def test_slots_that_are_not_there_after_all_are_given_back_and_asked_for_anew(
    placing: Record, group: str, now_s: float
) -> None:
    now, found = after(placing, now_s, groups={placing.group: group})
    assert (now.state, now.then, found.effects) == ("returning", "queued", [Remove(group=placing.group)])
    now, _ = after(now, now_s)
    assert (now.state, now.lease) == ("placing", 2)  # what is queued is planned in the same turn


def test_a_node_that_goes_costs_a_job_its_slots_and_no_more(running: Record) -> None:
    for groups in ({running.group: "broken"}, {}):
        now, _ = after(running, groups=groups, runs={running.group: None})
        assert (now.state, now.then, now.reason) == ("returning", "queued", "a node of it is gone")


def test_who_is_asked_to_stop_has_the_grace_and_then_nothing(running: Record) -> None:
    asked = running.asked("queued", "stopped for b", now_us=NOW_US)
    there = {"groups": {running.group: "ready"}, "runs": {running.group: None}}
    now, found = after(asked, 4.9, **there)
    assert (now.state, found.effects) == ("stopping", [Stop(record=asked)])
    now, _ = after(asked, 5.0, **there)
    assert (now.state, now.then) == ("returning", "queued")
    assert now.reason == "stopped for b; it did not stop within 5 s and was stopped hard"
    late = asked.asked("cancelled", "it was cancelled", now_us=NOW_US + 4 * US)
    now, _ = after(late, 5.0, **there)
    assert (now.state, now.then) == ("returning", "cancelled")


def test_a_report_of_another_lease_or_of_what_has_ended_changes_nothing(running: Record) -> None:
    again = running.returns("queued", "").over("queued", "", now_us=NOW_US)
    again = again.given((("n0", 1),), backfill=False, now_us=NOW_US).runs()
    assert again.reported(1, "yielded", "") is again
    assert again.reported(2, "yielded", "").then == "queued"
    ended = again.reported(2, "done", "").over("done", "", now_us=NOW_US)
    assert ended.reported(2, "failed", "") is ended
    assert ended.asked("cancelled", "it was cancelled", now_us=NOW_US) is ended


def test_what_nobody_knows_of_is_removed_and_a_process_that_is_gone_has_nothing(running: Record) -> None:
    _, found = after(record("a"), groups={"b.7": "ready"})
    assert Remove(group="b.7") in found.effects
    attached = replace(running, command=None, driver="session/01")
    there = {"groups": {running.group: "ready"}}
    assert after(attached, drivers=frozenset({"session/01"}), **there)[0] == attached
    now, _ = after(attached, **there)
    assert (now.state, now.then) == ("returning", "failed")
    assert after(replace(record("a"), driver="session/01"))[0].state == "failed"


def test_what_others_use_is_not_given_to_jobs() -> None:
    wide = record("a", least=2, count=2)
    assert after(wide)[0].state == "placing"
    now, found = after(wide, used={"n0": {"GPU": 0.5}})
    assert now.state == "queued"
    assert found.holds[wide.job.group].reason == "2 x {'GPU': 1.0} fit on no nodes that 'default' has now"
    assert after(record("a"), used={"n0": {"GPU": 0.5}})[0].state == "placing"


def test_what_is_reserved_is_borrowed_until_something_outside_of_the_queue_asks_for_it() -> None:
    running = [
        replace(record(name, priority=0), lease=1, placed=(("n0", 1),), started_us=NOW_US, state="running")
        for name in ("idle", "other")
    ]
    records = {one.job.id: one for one in (*running, record("waits", priority=0))}
    there = {"groups": {one.group: "ready" for one in running}, "runs": {one.group: None for one in running}}
    asked = [({"GPU": 1.0}, 3), ({"TPU": 1.0}, 1)]

    def stopped(reserved: float, **seen: Any) -> list[str]:
        rules = replace(RULES, reserved={"default": {"GPU": reserved}} if reserved else {})
        found = turn(records, Seen(pools=POOLS, asked=asked, **seen), rules, Usage(), {}, now_us=NOW_US)
        return [f"{one.state} {one.reason}" for one in found.changed.values()]

    whom = "stopped for what is outside of the queue: it has a higher priority"
    assert stopped(0, **there) == []
    assert stopped(1, **there) == [f"stopping {whom}"]
    assert stopped(2, **there) == [f"stopping {whom}"] * 2
    del records["other"], records["waits"]
    used = {"n0": {"GPU": 1.0}}
    assert stopped(2, used=used, **there) == [f"stopping {whom}"]
    assert stopped(1, used=used, **there) == []  # it has that already

    gone = {one.job.id: one for one in (running[0], record("waits", priority=0))}
    rules = replace(RULES, reserved={"default": {"GPU": 1}})
    one = {"groups": {running[0].group: "ready"}, "runs": {running[0].group: None}}
    found = turn(gone, Seen(pools=POOLS, asked=asked, **one), rules, Usage(), {}, now_us=NOW_US)
    assert found.changed == {}  # what is free is for what waits outside, until that has it
    found = turn(gone, Seen(pools=POOLS, **one), rules, Usage(), {}, now_us=NOW_US)
    assert found.changed["waits"].state == "placing"


def test_work_on_a_machine_that_is_about_to_be_taken_away_stops_and_goes_on_elsewhere(running: Record) -> None:
    pools = (Pool(name="default", nodes=tuple(Node(id=f"n{i}", total={"GPU": 1.0}) for i in range(2))),)
    seen: dict[str, Any] = {"draining": frozenset({"n0"}), "groups": {running.group: "ready"}}
    found = turn(
        {"a": running}, Seen(pools=pools, runs={running.group: None}, **seen), RULES, Usage(), {}, now_us=NOW_US
    )
    assert found.effects == [Stop(record=found.changed["a"])]
    assert found.changed["a"].reason == "its machine is about to be taken away"
    waits = found.changed["a"].over("queued", "", now_us=NOW_US)
    then = turn({"a": waits}, Seen(pools=pools, draining=frozenset({"n0"})), RULES, Usage(), {}, now_us=NOW_US)
    assert then.changed["a"].placed == (("n1", 1),)
