"""The ledger on both databases: what it keeps, and that two leaders cannot both write."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from mlplat.errors import Conflict, NotFound, Unavailable
from mlplat.jobs.job import Tenant
from mlplat.jobs.ledger import LEAD_S, Deposed, JobLedger
from mlplat.jobs.policy import Policy
from mlplat.jobs.record import Command, Held, Record, Request
from mlplat.jobs.rules import Rules
from mlplat.jobs.usage import Usage
from mlplat.metadata.postgres import driver_url
from tests.jobs.test_leader import record

US = 1_000_000
NOW_US = 1_000 * US
FULL = Command(
    arguments=("python", "train.py", "--lr=1e-3"),
    folder="/srv/code",
    variables=(("A", "1"),),
    packages=("einops",),
    image="registry/image:1",
)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'metadata.db'}"
    return driver_url(request.getfixturevalue("postgres_server").create(uuid4().hex))


@pytest.fixture
def ledger(url: str, tmp_path: Path) -> Iterator[JobLedger]:
    ledger = JobLedger(url, tmp_path / "lock")
    yield ledger
    ledger.close()


def held(name: str, ended_us: int) -> Held:
    given = record(name).given((("n0", 1),), backfill=False, now_us=ended_us - US)
    return Held.of(given, ended_us=ended_us)


def test_what_is_submitted_is_there_in_its_order_and_once(ledger: JobLedger) -> None:
    first = replace(record("b", labels=(("site", "office"),), least=1, count=4), command=FULL)
    second = record("a", driver="session/01")
    ledger.submit([first, second])
    ledger.submit([second, record("c")])
    assert ledger.records() == [first, second, record("c")]
    assert ledger.record("b") == first
    with pytest.raises(NotFound, match=r"no job 'bb'\..*Did you mean 'b'"):
        ledger.record("bb")


def test_the_leader_takes_what_is_new_until_it_has_written_that(ledger: JobLedger) -> None:
    epoch = ledger.lead("one", now_us=NOW_US)
    ledger.submit([record("a"), record("b")])
    ledger.request(Request(job="a", priority=None))
    ledger.request(Request(job="b", priority=300))
    with pytest.raises(NotFound):
        ledger.request(Request(job="c", priority=None))
    for _ in range(2):
        new, asked = ledger.take()
        assert [one.job.id for one in new] == ["a", "b"]
        assert [(one.job, one.priority) for one in asked] == [("a", None), ("b", 300)]
    gone = record("a").over("cancelled", "it was cancelled", now_us=NOW_US)
    spans = [held("a", NOW_US), held("b", NOW_US + 5 * US)]
    usage = Usage(at_us=NOW_US, seconds={("default", "a"): 1.5})
    ledger.write(
        epoch, now_us=NOW_US, changed=[gone], taken=new, done=asked, given_back=spans, usage=usage, waits={"x": "why"}
    )
    assert ledger.take() == ([], [])
    assert ledger.records() == [record("b")]
    assert ledger.records(ended=5) == [gone, record("b")]
    assert ledger.held() == spans
    assert ledger.held(since_us=NOW_US) == spans[1:]
    assert ledger.usage() == usage
    assert ledger.waits() == {"x": "why"}


def test_a_leader_that_was_replaced_writes_nothing(ledger: JobLedger) -> None:
    old = ledger.lead("one", now_us=NOW_US)
    ledger.submit([record("a")])
    new = ledger.lead("one", now_us=NOW_US)
    placed = record("a").given((("n0", 1),), backfill=False, now_us=NOW_US)
    with pytest.raises(Deposed):
        ledger.write(old, now_us=NOW_US, changed=[placed])
    assert ledger.records() == [record("a")]
    ledger.write(new, now_us=NOW_US, changed=[placed])
    assert ledger.records() == [placed]


def test_another_cluster_waits_until_the_leader_is_silent_or_resigns(ledger: JobLedger) -> None:
    epoch = ledger.lead("one", now_us=NOW_US)
    with pytest.raises(Conflict, match="heard 10 s ago: join or end that one"):
        ledger.lead("two", now_us=NOW_US + 10 * US)
    ledger.write(epoch, now_us=NOW_US + 10 * US)
    with pytest.raises(Conflict):
        ledger.lead("two", now_us=NOW_US + 20 * US)
    after = ledger.lead("two", now_us=NOW_US + round((10 + LEAD_S) * US))
    with pytest.raises(Deposed):
        ledger.write(epoch, now_us=NOW_US)
    ledger.resign(epoch)  # too late to say so
    with pytest.raises(Conflict):
        ledger.lead("one", now_us=NOW_US + 30 * US)
    ledger.resign(after)
    ledger.lead("one", now_us=NOW_US + 30 * US)


def test_of_many_who_want_to_lead_at_once_one_does(url: str, tmp_path: Path) -> None:
    def lead(name: int) -> int | None:
        ledger = JobLedger(url, tmp_path / "lock")
        try:
            return ledger.lead(f"cluster {name}", now_us=NOW_US)
        except Conflict:
            return None
        finally:
            ledger.close()

    with ThreadPoolExecutor(8) as pool:
        found = [epoch for epoch in pool.map(lead, range(8)) if epoch is not None]
    assert len(found) == 1


def test_rules_are_kept_and_tenants_set_one_by_one(ledger: JobLedger) -> None:
    assert ledger.rules() == Rules()
    rules = Rules(
        tenants={"ann": Tenant(name="ann", weight=2.0, quota={"office": {"GPU": 4}}, limit={"office": {"GPU": 6}})},
        pools={"office": {"site": "office"}, "default": {}},
        policy=Policy(over_fairness=200, slice_s=60.0),
        grace_s=5.0,
    )
    ledger.set_rules(rules)
    assert ledger.rules() == rules
    ledger.set_tenant(Tenant(name="bob", weight=3.0))
    ledger.set_tenant(Tenant(name="ann"))
    assert ledger.rules() == replace(rules, tenants={"ann": Tenant(name="ann"), "bob": Tenant(name="bob", weight=3.0)})


def test_a_database_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is not to be used now"):
        JobLedger(f"sqlite:///{tmp_path / 'nowhere' / 'metadata.db'}", tmp_path / "lock")


def test_a_record_is_the_same_after_it_was_written_whatever_its_state() -> None:
    one = replace(record("a"), command=FULL).given((("n0", 2), ("n1", 1)), backfill=True, now_us=5)
    for state in (one, one.runs(), one.runs().asked("queued", "for b", now_us=9), one.returns("failed", "why")):
        assert Record.of_json(state.to_json()) == state
