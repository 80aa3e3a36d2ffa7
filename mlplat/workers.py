"""How work gets to the cluster's workers: at once where the cluster is this process's own, by the queue where it is shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, Unpack

from pydantic import SecretStr

from mlplat.clock import Clock
from mlplat.config import Environment, Settings
from mlplat.errors import Refused
from mlplat.jobs import Jobs, Lease
from mlplat.jobs import demand as demands
from mlplat.jobs.demand import Demand
from mlplat.jobs.egress import GB
from mlplat.jobs.queue import Options
from mlplat.train import Progress

if TYPE_CHECKING:
    from mlplat._ray.session import Session
    from mlplat.jobs._ray.attached import Attached

Result = TypeVar("Result")


class Workers(ABC):
    """A part of `Platform`, which has the stores and Ray."""

    home: Path
    scratch: Path
    _settings: Settings
    _env: Environment
    _clock: Clock
    _closing: ExitStack
    _session: Session | None

    @property
    @abstractmethod
    def session(self) -> Session: ...

    @property
    @abstractmethod
    def metadata_url(self) -> str: ...

    @cached_property
    def jobs(self) -> Jobs:
        """The queue for the cluster's machines, and who gets what of them."""
        from mlplat.jobs.ledger import JobLedger

        jobs = Jobs(
            lambda: JobLedger(self.metadata_url, self.home / "locks" / "jobs"),
            self._find_cluster,
            tenant=self._settings.tenant,
            clock=self._clock,
            code=self.home / "jobs" / "code" if self._env.in_job else None,
        )
        self._closing.callback(jobs.close)
        return jobs

    def _read_gb(self, file: Path) -> dict[str, float]:
        """What work reads of the home, by the place of the home; nothing where that has no name."""
        place = self._settings.place
        return {} if place is None else {place: file.stat().st_size / GB}

    def _find_cluster(self, *, start: bool) -> Attached | None:
        from mlplat._ray.session import Session
        from mlplat.jobs._ray.attached import Attached

        joins = self._session is not None or Session.joins(self._settings.ray, home=self.home, env=self._env)
        return Attached(self.session, SecretStr(self.metadata_url), self.home) if start or joins else None

    def _on_workers(
        self,
        work: Callable[[Lease | None], Result],
        demand: Demand,
        progress: Progress,
        **options: Unpack[Options],
    ) -> Result:
        """Where the cluster is this process's alone there is nobody to wait for."""
        if not demand.in_process:
            self._admit(demand, progress)
        if demand.in_process or not self.session.shared:
            return work(None)
        return self.jobs.run(work, demand, say=progress.note, **options)

    def _admit(self, demand: Demand, progress: Progress) -> None:
        """Refuse what can never run; say what a demand that must wait is waiting for."""
        demands.check(demand, self.session.total())
        nowhere = demands.lacks_labels(demand, [node["labels"] for node in self.session.nodes() if node["alive"]])
        if nowhere and self.session.owned:
            raise Refused(
                f"{nowhere}. Correct the labels, or connect to a cluster that has them with connect(..., ray=ADDRESS)."
            )
        if nowhere:
            progress.note(f"{nowhere}. It waits for one to join; Ctrl-C ends it.")
        elif not self.session.shared and (waiting := demands.waiting_for(demand, self.session.available())):
            progress.note(waiting)
