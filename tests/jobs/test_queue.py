"""What users call, on a cluster that is made up: the leader is the real one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput, NotFound, Refused, Unavailable
from mlplat.jobs import GaveWay, Jobs, Lease, Rules, Tenant
from mlplat.jobs.leader import Leader
from mlplat.jobs.lease import Standing
from mlplat.jobs.ledger import JobLedger
from mlplat.jobs.record import Report, Request
from tests.jobs.test_leader import World


class MadeUp:
    """Slots on a node of two GPUs. Whoever asks how a job stands lets the queue go on."""

    driver = "made up/01"

    def __init__(self, ledger: JobLedger) -> None:
        self._world = World({"n0": 2.0}, drivers={self.driver})
        self._leader = Leader(ledger, "made up", SystemClock())
        self._reports: list[Report] = []
        self._lock = threading.Lock()

    def total(self) -> dict[str, float]:
        return {"GPU": 2.0}

    def look(self) -> None:
        with self._lock:
            reports, self._reports = self._reports, []
            while effects := self._leader.step(self._world.seen(), reports):
                reports = []
                for effect in effects:
                    self._world.carry_out(effect)

    def standing(self, job_id: str, known: Standing | None) -> Standing | None:
        for _ in range(100):
            self.look()
            now = self._now(job_id)
            if now != known:
                return now
            threading.Event().wait(0.002)
        return known

    def _now(self, job_id: str) -> Standing | None:
        record = self._leader.records.get(job_id)
        if record is None:
            return None
        hold = self._leader.holds.get(record.job.group)
        there = record.group in self._world.groups
        return Standing(
            state=record.state,
            lease=record.lease,
            size=sum(count for _, count in record.placed),
            group_id=record.group if there else None,
            waits="" if hold is None or record.state != "queued" else hold.reason,
        )

    def report(self, report: Report) -> None:
        self._reports.append(report)
        self.look()

    def trouble(self) -> str:
        return ""


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    ledger = JobLedger(f"sqlite:///{tmp_path / 'metadata.db'}", tmp_path / "lock")
    ledger.set_rules(Rules(grace_s=0.2))
    cluster = MadeUp(ledger)
    jobs = Jobs(lambda: ledger, lambda *, start: cluster, tenant="ann", clock=SystemClock())
    yield jobs
    jobs.close()


def test_what_a_job_reads_is_recorded_in_bytes_by_place(jobs: Jobs, tmp_path: Path) -> None:
    job_id = jobs.submit(["true"], compute="gpu:2", data_gb={"onprem": 0.5, "fra": 2, "ohio": 0})
    record = JobLedger(f"sqlite:///{tmp_path / 'metadata.db'}", tmp_path / "lock").record(job_id)
    assert record.job.data == (("fra", 2_000_000_000), ("onprem", 500_000_000))
    for wrong in (-1, "much", float("nan"), True):
        with pytest.raises(InvalidInput, match="give each place a number of GB from 0"):
            jobs.submit(["true"], data_gb={"onprem": wrong})  # type: ignore[dict-item]


def test_work_has_its_slots_and_gives_them_back(jobs: Jobs) -> None:
    assert jobs.run(lambda lease: (lease.size, lease.stop(), lease.lasts), "gpu:2") == (2, False, True)
    (row,) = jobs.list().to_dicts()
    assert (row["state"], row["tenant"], row["leases"], row["compute"]) == ("done", "ann", 1, "gpu:2")
    assert jobs.held()["workers"].to_list() == [2]


def test_work_that_gives_way_is_called_again_when_there_are_slots(jobs: Jobs) -> None:
    numbers: list[int] = []

    def work(lease: Lease) -> str:
        numbers.append(lease.number)
        if len(numbers) == 1:
            ask = threading.Thread(target=lambda: jobs.run(lambda urgent: None, "gpu:2", priority="production"))
            ask.start()
            while not lease.stop():
                threading.Event().wait(0.002)
            raise GaveWay
        return "done"

    assert jobs.run(work, "gpu:2", priority="explore") == "done"
    assert numbers == [1, 2]
    assert jobs.held().filter(stopped=True)["name"].to_list() == ["work"]


@pytest.mark.slow
def test_work_that_does_not_listen_loses_its_slots_and_is_called_again(jobs: Jobs) -> None:
    calls: list[int] = []

    def work(lease: Lease) -> int:
        calls.append(lease.number)
        if len(calls) == 1:
            with jobs.lease("gpu:1", priority="production"):
                assert not lease.lasts
            raise RuntimeError("the workers are gone")
        return len(calls)

    assert jobs.run(work, "gpu:2", priority="idle") == 2
    assert calls == [1, 2]


def test_an_error_of_the_work_is_raised_and_ends_the_job(jobs: Jobs) -> None:
    with pytest.raises(ZeroDivisionError):
        jobs.run(lambda lease: 1 // 0, "gpu:2")
    with pytest.raises(KeyError), jobs.lease("gpu:2"):
        raise KeyError("x")
    assert jobs.list()["state"].to_list() == ["failed", "failed"]
    with jobs.lease("gpu:2") as lease:
        assert lease.lasts


def test_who_waits_is_told_why_and_may_be_cancelled(jobs: Jobs) -> None:
    said: list[str] = []

    def ask() -> None:
        with pytest.raises(Unavailable, match="gets no slots: it was cancelled"):
            jobs.run(print, "gpu:1", say=said.append)

    with jobs.lease("gpu:2", preemptible=False):
        waiting = threading.Thread(target=ask)
        waiting.start()
        while not said:
            threading.Event().wait(0.002)
        (job_id,) = jobs.list().filter(state="queued")["id"].to_list()
        assert jobs.get(job_id)["reason"] == "others have the slots, and 'ann' has 100% of 'default'"
        jobs.reprioritise(job_id, "production")
        jobs.cancel(job_id)
        waiting.join()
    assert said == ["waits for slots: others have the slots, and 'ann' has 100% of 'default'"]
    assert jobs.get(job_id)["state"] == "cancelled"
    assert jobs.get(job_id)["priority"] in {"normal", "production"}


def test_what_is_wrong_is_said_before_anything_is_queued(jobs: Jobs) -> None:
    with pytest.raises(InvalidInput, match="compute='cpu:0' asks for no slots"):
        jobs.run(print, "cpu:0")
    with pytest.raises(Refused, match="asks for 3 GPU, and the whole cluster has 2"):
        jobs.run(print, "gpu:3")
    with pytest.raises(InvalidInput, match="priority='soon' is not one of production"):
        jobs.run(print, "gpu:1", priority="soon")
    with pytest.raises(InvalidInput, match="command: give a list"):
        jobs.submit("python train.py")
    with pytest.raises(InvalidInput, match="env: gpus: it has packages, image and variables"):
        jobs.submit(["true"], compute="gpu:1", env={"gpus": 1})
    with pytest.raises(InvalidInput, match="tenant 'ann': pool 'gpu' is not one of default"):
        jobs.set_tenant(Tenant(name="ann", quota={"gpu": {"GPU": 1}}))
    with pytest.raises(NotFound, match="no job 'x'"):
        jobs.get("x")
    assert jobs.list().height == 0


@pytest.mark.slow
def test_a_command_is_queued_with_all_that_it_needs(jobs: Jobs, tmp_path: Path) -> None:
    with jobs.lease("gpu:2", preemptible=False):
        env = {"packages": ["einops"], "variables": {"A": 1}}
        job_id = jobs.submit(["python", "train.py"], compute="gpu:1", folder=tmp_path, env=env, priority="idle")
        command = jobs._ledger.record(job_id).command
        assert command is not None
        assert (command.arguments, command.folder) == (("python", "train.py"), str(tmp_path))
        assert (command.packages, command.variables) == (("einops",), (("A", "1"),))
        with pytest.raises(Unavailable, match="has not ended after 0 s: it is queued"):
            jobs.wait(job_id, timeout_s=0.0)
        jobs._ledger.request(Request(job=job_id, priority=None))
        assert jobs.wait(job_id)["state"] == "cancelled"


@pytest.mark.slow
def test_the_picture_and_the_usage_are_of_what_was_held(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing was held"):
        jobs.draw(tmp_path / "none.png")
    with jobs.lease("gpu:2"):
        pass
    assert jobs.draw(tmp_path / "held.svg").read_text().startswith("<?xml")
    with pytest.raises(InvalidInput, match="Format 'txt' is not supported"):
        jobs.draw(tmp_path / "held.txt")
    assert jobs.usage().select("tenant", "resource").rows() == [("ann", "GPU")]
    assert jobs.usage()["hours"].item() == pytest.approx(
        2 * (jobs.held()["ended"] - jobs.held()["began"]).dt.total_microseconds().item() / 3.6e9
    )
    assert jobs.held().schema["began"] == pl.Datetime("us", "UTC")
