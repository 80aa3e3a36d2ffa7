"""Trials on processes that stay: for those that take less time than to start one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mlplat._ray.niceness import last_of_all, thread_in_background
from mlplat.clock import SystemClock
from mlplat.config import carried, environment
from mlplat.jobs._ray.world import group_of
from mlplat.jobs.demand import Demand
from mlplat.jobs.lease import GaveWay, Lease
from mlplat.train.search.engine import Engine, Task
from mlplat.train.search.running import Event, Objective, Stepper, Told
from mlplat.train.search.settle import settle

OnWorkers = Callable[[Callable[[Lease | None], None]], None]
"""Waits for slots and calls with them; again where what it called gave way."""
LISTEN_S = 0.2


class Worker:
    """What runs in a process: one trial at a time."""

    def __init__(self, given: tuple[Objective, Any, Sequence[str]], asked: Path) -> None:
        last_of_all()
        self._made = (*given, asked.exists)
        self._clock = SystemClock()
        self._began_s = 0.0

    def ready(self) -> None: ...

    def begin(self, task: Task, folder: Path) -> tuple[Event, float]:
        """What comes first, and the seconds until then."""
        self._stepper = Stepper(*self._made)
        self._began_s = self._clock.elapsed_s()
        return self._stepper.begin(task, folder), self._clock.elapsed_s() - self._began_s

    def go_on(self, goes_on: bool) -> tuple[Event, float]:
        return self._stepper.go_on(goes_on=goes_on), self._clock.elapsed_s() - self._began_s


class Warm:
    """`times` are the seconds of the trials that ended here, from begin to end, but for the first one on each process: with that
    the process loads its libraries."""

    def __init__(
        self, engine: Engine, objective: Objective, folder: Path, demand: Demand, heard: Callable[[], None]
    ) -> None:
        self._engine, self._folder, self._demand, self._heard = engine, folder, demand, heard
        self._given = ray.put((objective, engine.plan.space, [goal.metric for goal in engine.plan.goals]))
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self.times: list[float] = []
        self.most: int | None = None
        """So many trials at most are begun in all, until `go_on` or `leave`."""
        self._decided, self._left, self._ended = threading.Event(), False, 0
        self._begun = 0
        self._lock = threading.Lock()
        self._clock = SystemClock()
        self._since: dict[int, tuple[float, bool]] = {}
        """Of the trials that run, by their number: since when, and whether each is the first on its process."""

    def start(self, count: int, on_workers: OnWorkers) -> None:
        """As many processes."""
        for number in range(count):
            thread = threading.Thread(
                target=self._follow, args=(number, on_workers), name=f"trials {number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    @property
    def count(self) -> int:
        return len(self._threads)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether all have ended. Raises what went wrong; on Ctrl-C all stop where they are."""
        waited = 0.0
        try:
            for thread in self._threads:
                while thread.is_alive():
                    if self._errors or (timeout_s is not None and waited >= timeout_s):
                        break
                    thread.join(LISTEN_S)
                    waited += LISTEN_S
        except BaseException:
            self.stop()
            raise
        if self._errors:
            self.stop()
            raise self._errors[0]
        return not any(thread.is_alive() for thread in self._threads)

    def ended_within(self, seconds: float, first_s: float) -> bool:
        """Whether the trials up to `most` have ended. False as soon as one has run for longer, or the first on a process for
        more than `first_s`; the time to start a process does not count."""
        while not self.wait(LISTEN_S) and self._ended < (self.most or 0):
            now_s = self._clock.elapsed_s()
            if any(now_s - began_s > (first_s if first else seconds) for began_s, first in list(self._since.values())):
                return False
        return True

    def go_on(self) -> None:
        """With all trials that there are."""
        self.most = None
        self._decided.set()

    def leave(self) -> None:
        """No more are begun here."""
        self._left = True
        self._decided.set()

    def stop(self) -> None:
        self._stop.set()

    def _follow(self, number: int, on_workers: OnWorkers) -> None:
        thread_in_background()
        try:
            on_workers(lambda lease: self._on(number, lease))
        except BaseException as error:  # noqa: BLE001  # raised again by `wait`
            self._errors.append(error)

    def _on(self, number: int, lease: Lease | None) -> None:
        """Trials on one process, until there are none, or its slots are to be given back."""
        asked = self._folder / f".stop-{number}"
        asked.unlink(missing_ok=True)
        worker, first = None, True
        try:
            while not self._stop.is_set() and not (lease is not None and lease.stop()):
                if worker is None:
                    worker, first = self._started(asked, lease), True
                task = self._next()
                if task is None:
                    return
                if not self._run(worker, task, asked, lease, first=first):
                    worker = None
                first = False
            if lease is not None and lease.stop():
                raise GaveWay
        finally:
            asked.unlink(missing_ok=True)
            if worker is not None:
                ray.kill(worker)

    def _next(self) -> Task | None:
        while True:
            with self._lock:
                if self.most is None or self._begun < self.most:
                    self._begun += 1
                    break
            if self._left or self._stop.is_set():
                return None
            self._decided.wait(LISTEN_S)
        task = self._engine.next()
        self._heard()
        return task

    def _started(self, asked: Path, lease: Lease | None) -> Any:
        demand = self._demand
        resources = dict(demand.resources)
        options: dict[str, Any] = {
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "memory": resources.pop("memory", 0),
            "resources": resources,
            "max_restarts": 0,
        }
        if variables := carried(environment()):
            options["runtime_env"] = {"env_vars": variables}
        if lease is not None:
            options["scheduling_strategy"] = _in(group_of(lease.group_id))
        elif demand.labels:
            options["label_selector"] = dict(demand.labels)
        worker = ray.remote(Worker).options(**options).remote(self._given, asked)
        with suppress(RayError):  # the first trial tells what is wrong
            ray.get(worker.ready.remote())
        return worker

    def _run(self, worker: Any, task: Task, asked: Path, lease: Lease | None, *, first: bool) -> bool:
        """A trial to its end. False if the process is gone."""
        call = worker.begin.remote(task, self._folder / str(task.number))
        self._since[task.number] = self._clock.elapsed_s(), first
        try:
            while True:
                event, seconds = self._answer(call, asked, lease)
                if event is None:
                    self._engine.yielded(task.number)
                    return False
                goes_on = settle(self._engine, task.number, event)
                self._heard()
                if not isinstance(event, Told):
                    if not first:
                        self.times.append(seconds)
                    return True
                call = worker.go_on.remote(goes_on)
        except RayActorError as error:
            if lease is not None and not lease.lasts:
                self._engine.yielded(task.number)
            else:
                self._engine.failed(task.number, f"its process died: {_said(error)}", lost=True)
            return False
        except RayError as error:
            self._engine.failed(task.number, _said(error), again=False)
            return False
        finally:
            del self._since[task.number]
            self._ended += 1

    def _answer(self, call: Any, asked: Path, lease: Lease | None) -> tuple[Event | None, float]:
        while True:
            ready, _ = ray.wait([call], timeout=LISTEN_S)
            if ready:
                found: tuple[Event, float] = ray.get(call)
                return found
            if self._stop.is_set():
                return None, 0.0
            if lease is not None and lease.stop():
                asked.touch()


def _in(group: PlacementGroup) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=0)


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
