"""Slots that a process has for a while, and the controller that gives them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mlplat.errors import Unavailable
from mlplat.jobs.record import Report, State

_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a job stands. `group_id` is the placement group of its lease, while it has one; `waits` why it has none."""

    state: State
    lease: int
    size: int = 0
    group_id: str | None = None
    reason: str = ""
    waits: str = ""


class Cluster(Protocol):
    """The cluster that the queue runs on, and its controller, which is started if it is not there."""

    @property
    def driver(self) -> str:
        """What this process is called there."""

    def total(self) -> Mapping[str, float]:
        """What there is of each resource."""

    def look(self) -> None:
        """Something is new: the controller need not wait to find out."""

    def standing(self, job_id: str, known: Standing | None) -> Standing | None:
        """As soon as it differs from what is known, or after some seconds. None if there is no such job (any more)."""

    def report(self, report: Report) -> None:
        """How the work on a lease ended. Durable when it returns."""

    def trouble(self) -> str:
        """Why the queue stands still, or nothing."""


class GaveWay(Exception):
    """Raise it from work that has left its slots to others, and goes on when it has some again."""


class Lease:
    """Slots that this process has. `size` is how many workers, `group_id` the Ray placement group that they are."""

    def __init__(self, cluster: Cluster, job_id: str, standing: Standing) -> None:
        assert standing.group_id is not None
        self.job_id, self.number, self.size, self.group_id = job_id, standing.lease, standing.size, standing.group_id
        self._cluster, self._now, self._over = cluster, standing, False
        threading.Thread(target=self._follow, name=f"lease {job_id}", daemon=True).start()

    def stop(self) -> bool:
        """Whether somebody else is to have the slots: make a checkpoint and give them back, or they are taken away."""
        return self._now.state != "running" or self._now.lease != self.number

    @property
    def lasts(self) -> bool:
        """False once the slots are taken away."""
        return self._now.lease == self.number and self._now.state in {"running", "stopping"}

    def close(self) -> None:
        self._over = True

    def _follow(self) -> None:
        while self.lasts and not self._over:
            try:
                now = self._cluster.standing(self.job_id, self._now)
            except Unavailable:  # the controller is away, and the slots stay as they are
                threading.Event().wait(_AGAIN_S)
                continue
            self._now = Standing(state="failed", lease=self.number) if now is None else now
