"""The one who decides: it reads what was submitted and asked for, lets `turn` say what becomes of that, writes it down, and only
then gives out what is to be done. It keeps nothing that the ledger does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mlplat.clock import US_PER_S, Clock
from mlplat.decision import Hold
from mlplat.jobs.burst import Bursting
from mlplat.jobs.job import Pool
from mlplat.jobs.ledger import JobLedger
from mlplat.jobs.record import Record, Report, Request
from mlplat.jobs.turn import Effect, Seen, turn

WRITE_S = 2.0
"""It is heard at least so often."""


class Leader:
    """Not for several threads at once."""

    def __init__(self, ledger: JobLedger, cluster: str, clock: Clock) -> None:
        """`Conflict` while another cluster leads."""
        self._ledger, self._clock = ledger, clock
        self.epoch = ledger.lead(cluster, now_us=clock.now_us())
        self.records = {record.job.id: record for record in ledger.records()}
        self.rules = ledger.rules()
        self.holds: Mapping[str, Hold] = {}
        self.burst: Bursting | None = None
        self._usage = replace(ledger.usage(), half_life_s=self.rules.half_life_s)
        self._over: Mapping[tuple[str, str], float] = {}
        self._waits: Mapping[str, str] | None = None
        self._pools: Sequence[Pool] | None = None
        self._written_us = 0

    def step(self, seen: Seen, reports: Iterable[Report] = ()) -> Sequence[Effect]:
        """What is to be done now. Raises `Deposed` if another one leads, `Unavailable` if nothing can be written: then nothing
        has changed, and it is to be called again with the same reports."""
        now_us = self._clock.now_us()
        self.rules = self._ledger.rules()
        new, requests = self._ledger.take()
        before = self.records | {r.job.id: r for r in new if r.job.id not in self.records}
        asked = _answered(before, requests, reports, now_us)
        waiting = {job_id: record for job_id, record in asked.items() if not record.ended}
        usage = replace(self._usage, half_life_s=self.rules.half_life_s)
        found = turn(waiting, seen, self.rules, usage, self._over, now_us=now_us)
        after = {**asked, **found.changed}
        changed = [record for job_id, record in after.items() if record is not before[job_id]]
        waits = {group: hold.reason for group, hold in found.holds.items()}
        if changed or new or requests or now_us - self._written_us >= WRITE_S * US_PER_S:
            self._ledger.write(
                self.epoch,
                now_us=now_us,
                changed=changed,
                taken=new,
                done=requests,
                given_back=found.given_back,
                usage=found.usage,
                waits=None if waits == self._waits else waits,
                pools=None if found.pools == self._pools else found.pools,
            )
            self._waits, self._pools = waits, found.pools
            self._written_us = now_us
        self.records = {job_id: record for job_id, record in after.items() if not record.ended}
        self.holds, self._usage, self._over = found.holds, found.usage, found.over
        self.burst = found.burst
        return found.effects

    def resign(self) -> None:
        self._ledger.resign(self.epoch)


def _answered(
    records: Mapping[str, Record], requests: Iterable[Request], reports: Iterable[Report], now_us: int
) -> dict[str, Record]:
    after = dict(records)
    for report in reports:
        if (record := after.get(report.job)) is not None:
            after[report.job] = record.reported(report.lease, report.outcome, report.reason)
    for request in requests:
        record = after.get(request.job)
        if record is None:  # it has ended
            continue
        if request.priority is None:
            after[request.job] = record.asked("cancelled", "it was cancelled", now_us=now_us)
        else:
            after[request.job] = replace(record, job=replace(record.job, priority=request.priority))
    return after
