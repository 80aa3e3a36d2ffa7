"""The actor that runs the queue of a home on a cluster: it sees, lets the leader decide, and does what that says."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from mlplat.clock import SystemClock
from mlplat.errors import MlplatError
from mlplat.home import home_id
from mlplat.jobs._ray.cloud import Market
from mlplat.jobs._ray.runner import NAMESPACE, launch
from mlplat.jobs._ray.world import World, cluster_name
from mlplat.jobs.burst import Bursting
from mlplat.jobs.leader import Leader
from mlplat.jobs.lease import Standing
from mlplat.jobs.ledger import Deposed, JobLedger
from mlplat.jobs.record import Record, Report
from mlplat.jobs.turn import Effect, Exit, Launch, Place, Remove, Seen, Stop

PERIOD_S = 1.0
SOON_S = 0.03
"""How soon it looks again where something is under way."""
LISTEN_S = 5.0
IDLE_S = 30.0
"""It ends after so long without a job; who submits one starts another."""
_YIELDED = frozenset({75, -15})
"""EX_TEMPFAIL, and to be ended by the SIGTERM that asked."""
_TROUBLE_S = 1.0
_log = logging.getLogger(__name__)


class Controller:
    """Whoever waits for a change is answered by the event loop; the work is done on a thread, where it may block."""

    def __init__(self, url: SecretStr, home: str, cluster: str) -> None:
        self._url, self._home, self._cluster = url.get_secret_value(), Path(home), cluster
        self._world, self._clock = World(home_id(self._home)), SystemClock()
        self._market = Market(self._clock)
        self._runs: dict[str, dict[Any, Any]] = {}
        self._exits: dict[str, Exit] = {}
        self._reports: list[tuple[Report, asyncio.Future[None]]] = []
        self._look = threading.Event()
        self._leader: Leader | None = None
        self._trouble = "the jobs' controller is starting"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        threading.Thread(target=self._lead, name="leader", daemon=True).start()

    async def look(self) -> None:
        """Something was submitted or asked for."""
        self._look.set()

    async def standing(self, job_id: str, known: Standing | None) -> Standing | None:
        """As soon as it is another than the one that is known, or that one after a while. None: it has ended or is not there."""
        self._loop = asyncio.get_running_loop()
        self._changed = self._changed or asyncio.Event()
        deadline = self._loop.time() + LISTEN_S
        while True:
            changed = self._changed
            now = known if self._leader is None else self._standing(job_id)
            left = deadline - self._loop.time()
            if now != known or left <= 0:
                return now
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left)

    async def report(self, report: Report) -> None:
        """Durable when it returns."""
        self._loop = asyncio.get_running_loop()
        done = self._loop.create_future()
        self._reports.append((report, done))
        self._look.set()
        await done

    async def trouble(self) -> str:
        """Why nothing goes on, or nothing."""
        return self._trouble

    def _lead(self) -> None:
        """For ever: whatever goes wrong is tried again."""
        while True:
            try:
                self._go_on()
            except MlplatError as error:
                self._say(error)
                if isinstance(error, Deposed):
                    self._give_up()
            except Exception as error:  # noqa: BLE001 - Ray's, of which there are many; the next look may be luckier
                self._say(error)
            threading.Event().wait(_TROUBLE_S)

    def _say(self, error: Exception) -> None:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if said != self._trouble:
            _log.warning("jobs: %s", said)
        self._trouble = said

    def _go_on(self) -> None:
        if self._leader is None:
            ledger = JobLedger(self._url, self._home / "locks" / "jobs")
            try:
                self._leader = Leader(ledger, self._cluster, self._clock)
            except BaseException:
                ledger.close()
                raise
        idle_s = self._clock.elapsed_s()
        while True:
            self._look.clear()
            busy = self._step(self._leader)
            self._trouble = ""
            if self._leader.records or self._reports:
                idle_s = self._clock.elapsed_s()
            elif self._clock.elapsed_s() - idle_s > IDLE_S:
                self._leader.resign()
                ray.kill(ray.get_runtime_context().current_actor)
            self._look.wait(SOON_S if busy else PERIOD_S)

    def _give_up(self) -> None:
        """Another cluster leads, and has begun anew what runs here."""
        self._leader = None
        for name in self._world.groups():
            self._world.remove(name)
        if self._market.cloud() is not None:
            self._market.ask(Bursting())

    def _step(self, leader: Leader) -> bool:
        """Whether something is under way."""
        reports = list(self._reports)
        effects = leader.step(self._seen(leader), [report for report, _ in reports])
        del self._reports[: len(reports)]
        self._tell([done for _, done in reports])  # it is written, whatever becomes of the effects
        for effect in effects:
            self._carry_out(effect)
        if leader.burst is not None:
            self._market.ask(leader.burst)
        under_way = any(one.state in {"placing", "returning"} for one in leader.records.values())
        return under_way or any(not isinstance(effect, Stop) for effect in effects)

    def _seen(self, leader: Leader) -> Seen:
        groups, nodes = self._world.groups(), self._world.nodes()
        self._runs = {name: refs for name, refs in self._runs.items() if name in groups}
        for name, refs in list(self._runs.items()):
            try:
                if name not in self._exits and (found := _exit(refs)) is not None:
                    self._exits[name] = found
            except ActorUnavailableError:  # it is asked again; if its machine is gone, Ray sees that after a while
                del self._runs[name]
        self._exits = {name: found for name, found in self._exits.items() if name in groups}
        return Seen(
            pools=leader.rules.divided(nodes),
            used=self._world.used(nodes),
            asked=self._world.asked() if leader.rules.reserved else (),
            groups=groups,
            runs={name: self._exits.get(name) for name in self._runs},
            drivers=self._world.drivers(),
            cloud=self._market.cloud(),
            draining=self._world.draining(),
        )

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Place(record=record):
                self._world.place(record)
            case Remove(group=name):
                self._world.remove(name)
            case Launch(record=record):
                self._launch(record)
            case Stop(record=record):
                for actor in self._runs.get(record.group, {}).values():
                    actor.stop.remote()

    def _launch(self, record: Record) -> None:
        variables = {"MLPLAT_HOME": str(self._home), "MLPLAT_JOB": record.job.id, "RAY_ADDRESS": _address()}
        log = str(self._home / "jobs" / record.job.id / str(record.lease))
        started = launch(record, self._world.ids[record.group], log, variables)
        self._runs[record.group] = {ref: actor for actor, ref in started}
        for _, ref in started:
            ref.future().add_done_callback(lambda _: self._look.set())

    def _tell(self, done: Sequence[asyncio.Future[None]]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told, done)

    def _told(self, done: Sequence[asyncio.Future[None]]) -> None:
        for future in done:
            if not future.done():
                future.set_result(None)
        if self._changed is not None:
            self._changed.set()
            self._changed = asyncio.Event()

    def _standing(self, job_id: str) -> Standing | None:
        leader = self._leader
        record = None if leader is None else leader.records.get(job_id)
        if leader is None or record is None:
            return None
        hold = leader.holds.get(record.job.group) if record.state == "queued" else None
        return Standing(
            state=record.state,
            lease=record.lease,
            size=sum(count for _, count in record.placed),
            group_id=self._world.ids.get(record.group),
            reason=record.reason,
            waits="" if hold is None else hold.reason,
        )


def _exit(refs: dict[Any, Any]) -> Exit | None:
    """Of all processes: one that failed ends the others."""
    ready, left = ray.wait(list(refs), num_returns=len(refs), timeout=0)
    codes = [_code(ref) for ref in ready]
    bad = next((code for code in codes if code != 0), None)
    if bad is None:
        return Exit(outcome="done", reason="") if not left else None
    if left:
        for ref in left:
            refs[ref].stop.remote()
        if bad in _YIELDED:
            return None
    if isinstance(bad, str):
        return Exit(outcome="failed", reason=bad)
    if bad in _YIELDED:
        return Exit(outcome="yielded", reason="")
    how = f"was killed by signal {-bad}" if bad < 0 else f"ended with exit code {bad}"
    return Exit(outcome="failed", reason=f"its command {how}")


def _code(ref: Any) -> int | str:
    try:
        return int(ray.get(ref))
    except ActorUnavailableError:
        raise
    except RayActorError:
        return "the process that ran its command died: it may have been killed for its memory"
    except RayError as error:
        return f"its command could not be started: {str(error).strip().splitlines()[-1]}"


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)


def controller(url: SecretStr, home: Path) -> Any:
    """The one of the cluster that this process is connected to; started if it is not there."""
    return (
        ray.remote(Controller)
        .options(
            name=f"mlplat.jobs.{home_id(home)}",
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=10_000,
        )
        .remote(url, str(home), cluster_name())
    )
