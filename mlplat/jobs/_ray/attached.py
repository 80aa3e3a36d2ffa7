"""A process at the controller of its cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import RayActorError, RayError

from mlplat._ray.session import Session
from mlplat.clock import SystemClock
from mlplat.errors import Unavailable
from mlplat.jobs._ray.cloud import published
from mlplat.jobs._ray.controller import LISTEN_S, controller
from mlplat.jobs._ray.world import driver_name
from mlplat.jobs.cloud import BOUGHT, SITE
from mlplat.jobs.lease import Standing
from mlplat.jobs.record import Report

ANSWER_S = 60.0
"""A controller that died is started again within seconds."""
TOTAL_S = 5.0
"""What the cluster has in all is asked for so often."""


class Attached:
    """The port to the controller, for a process that Ray is connected in."""

    def __init__(self, session: Session, url: SecretStr, home: Path) -> None:
        self._session, self._url, self._home = session, url, home
        self._lock = Lock()
        self._actor: Any = None
        self._clock = SystemClock()
        self._total: Mapping[str, float] = {}
        self._total_s = -math.inf

    @property
    def driver(self) -> str:
        return driver_name(ray.get_runtime_context().get_job_id())

    def total(self) -> Mapping[str, float]:
        if (now_s := self._clock.elapsed_s()) - self._total_s > TOTAL_S:
            self._total, self._total_s = _most(self._session), now_s
        return self._total

    def look(self) -> None:
        """Does not wait: what is to be seen is in the ledger, and a controller that was just started sees it anyway."""
        self._found().look.remote().future().add_done_callback(self._looked)

    def _looked(self, done: Future[None]) -> None:
        if isinstance(done.exception(), RayActorError):
            self._actor = None
            with suppress(RayError):  # the cluster ends
                self._found()

    def standing(self, job_id: str, known: Standing | None) -> Standing | None:
        found: Standing | None = self._call(lambda actor: actor.standing.remote(job_id, known))
        return found

    def report(self, report: Report) -> None:
        self._call(lambda actor: actor.report.remote(report))

    def trouble(self) -> str:
        return str(self._call(lambda actor: actor.trouble.remote()))

    def _found(self) -> Any:
        with self._lock:
            if self._actor is None:
                self._actor = controller(self._url, self._home)
            return self._actor

    def _call(self, ask: Callable[[Any], Any]) -> Any:
        for last in (False, True):
            try:
                return ray.get(ask(self._found()), timeout=ANSWER_S + LISTEN_S)
            except RayActorError:  # it had nothing to do for a while, and ended
                self._actor = None
                if last:
                    raise Unavailable("the jobs' controller ends as soon as it starts: see the logs of Ray") from None
            except RayError as error:
                raise Unavailable(f"the jobs' controller does not answer: {_last_line(error)}") from None
        raise AssertionError


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _most(session: Session) -> dict[str, float]:
    """What there is, or could be: of bought machines as many as there may be, however many there are."""
    if (cloud := published()) is None:
        return session.total()
    total = cloud.total()
    for node in session.nodes():
        if node["alive"] and node["labels"].get(SITE) != BOUGHT:
            for name, amount in node["resources"].items():
                total[name] = total.get(name, 0.0) + amount
    return total
