"""Which kind of bought machines each job gets, where its data make some of them dearer for it than others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlplat.jobs.job import Job, Pool
from mlplat.jobs.plan import Plan, Snapshot, plan
from mlplat.jobs.policy import Policy

Choices = Mapping[str, Sequence[str]]
"""Kinds by the job's id, the cheapest first."""

_KIND = "mlplat/kind"


def cheapest(
    asks: Snapshot, choices: Choices, kinds: Mapping[str, str], policy: Policy, *, now_us: int
) -> tuple[Plan, dict[str, str]]:
    """The plan in which each job that has choices is on machines of one kind, the first that has room for it; the others are
    placed on any. Where none has, it waits for all of its own. `kinds` is of which kind each node is. With it comes the group by
    which the plan knows each job."""
    choices = {job_id: names for job_id, names in choices.items() if names}
    if choices:
        asks = replace(asks, pools=[_labelled(pool, kinds) for pool in asks.pools])
    tried = {job_id: [*names, ",".join(names)] if len(names) > 1 else names for job_id, names in choices.items()}
    at = dict.fromkeys(tried, 0)
    while True:
        waiting = [_on(job, tried[job.id][at[job.id]]) if job.id in at else job for job in asks.waiting]
        found = plan(replace(asks, waiting=waiting), policy, now_us=now_us)
        given = {admit.job.id for admit in found.admits}
        stuck = [job_id for job_id in at if job_id not in given and at[job_id] + 1 < len(tried[job_id])]
        if not stuck:
            return found, {job.id: job.group for job in waiting}
        for job_id in stuck:
            at[job_id] += 1


def _on(job: Job, names: str) -> Job:
    return replace(job, labels=(*job.labels, (_KIND, f"in({names})")))


def _labelled(pool: Pool, kinds: Mapping[str, str]) -> Pool:
    return replace(
        pool, nodes=tuple(replace(node, labels={**node.labels, _KIND: kinds[node.id]}) for node in pool.nodes)
    )
