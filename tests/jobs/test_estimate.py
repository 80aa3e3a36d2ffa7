"""When a job may start: the plan played on from now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlplat.jobs.estimate import MOST, starts
from mlplat.jobs.job import Node, Pool
from mlplat.jobs.record import Held, Record
from mlplat.jobs.rules import Rules
from mlplat.jobs.usage import Usage
from tests.jobs.test_leader import record

US = 1_000_000
NOW_US = 10_000 * US
POOLS = (Pool(name="default", nodes=(Node(id="n0", total={"GPU": 2.0}),)),)


def ended(name: str, seconds: float, tenant: str = "a", *, stopped: bool = False) -> Held:
    given = record("past", tenant).given((("n0", 1),), backfill=False, now_us=NOW_US - round(seconds * US))
    return replace(Held.of(given, ended_us=NOW_US), job=f"{name}.{seconds}", name=name, stopped=stopped)


def running(name: str, for_s: float) -> Record:
    return record(name).given((("n0", 1),), backfill=False, now_us=NOW_US - round(for_s * US)).runs()


def estimated(*records: Record, past: list[Held]) -> dict[str, float]:
    found = starts(records, past, POOLS, Rules(), Usage(), now_us=NOW_US)
    return {name: (us - NOW_US) / US for name, us in found.items()}


def named(name: str, what: str, tenant: str = "a") -> Record:
    return replace(record(name, tenant), name=what)


def test_who_waits_starts_when_what_runs_will_have_ended() -> None:
    past = [ended("train", 80), ended("train", 100), ended("train", 120), ended("test", 10)]
    runs = [replace(running("r1", 30), name="train"), replace(running("r2", 60), name="train")]
    found = estimated(*runs, named("w1", "test"), named("w2", "train"), named("w3", "test"), past=past)
    assert found == pytest.approx(
        {"w1": 60, "w2": 70, "w3": 70}, abs=1.0
    )  # r2 has run for 60 s, and goes on for as long


def test_of_what_was_never_seen_it_takes_what_its_tenant_s_or_all_jobs_took() -> None:
    past = [ended("train", 100, "a"), ended("other", 40, "b")]
    runs = [replace(running("r1", 0), name="new"), replace(running("r2", 0), name="new")]
    assert estimated(*runs, named("w", "new"), past=past) == pytest.approx({"w": 100}, abs=1.0)
    strangers = [replace(one, job=replace(one.job, tenant="c")) for one in runs]
    assert estimated(*strangers, named("w", "new"), past=past) == pytest.approx({"w": 70}, abs=1.0)


def test_the_leases_of_one_job_count_together() -> None:
    part, rest = ended("train", 60, stopped=True), ended("train", 50)
    past = [replace(part, job="one"), replace(rest, job="one")]
    runs = [replace(running("r1", 0), name="train"), replace(running("r2", 0), name="train")]
    assert estimated(*runs, named("w", "train"), past=past) == pytest.approx({"w": 110}, abs=1.0)


def test_nothing_is_said_where_nothing_is_known_and_not_for_the_end_of_a_long_queue() -> None:
    assert estimated(running("r1", 10), running("r2", 10), record("w"), past=[]) == {}
    queue = [record(f"w{i:03}", tenant=f"t{i % 7}") for i in range(MOST + 10)]
    found = estimated(*queue, past=[ended("w", 5)])
    assert len(found) == MOST
    assert max(found.values()) == pytest.approx(5 * (MOST / 2 - 1), rel=0.05)
