"""Room for Ray Tune's trials from the queue of the cluster: a trial is a job there, and its placement group the job's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.air.execution.resources import ResourceManager, ResourceRequest
from ray.air.execution.resources.placement_group import PlacementGroupAcquiredResources

from mlplat.errors import MlplatError
from mlplat.jobs._ray.world import group_of
from mlplat.jobs.demand import Demand
from mlplat.jobs.lease import GaveWay, Lease
from mlplat.jobs.queue import Jobs
from mlplat.train.search._ray.tune import stop_file

LISTEN_S = 0.1


class FromQueue(ResourceManager):  # type: ignore[misc]
    """All requests are alike. A thread has a job each, from when it is asked for until what Tune put on it is gone; what has to
    give way is told by a file, gives its slots back when its trial has left, and waits in the queue where it was."""

    def __init__(
        self, jobs: Jobs, demand: Demand, folder: Path, options: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self._jobs, self._demand, self._folder, self._options, self._say = jobs, demand, folder, options, say
        self._lock = threading.Lock()
        self._requests = 0
        self._asking: set[str] = set()
        self._ready: list[Lease] = []
        self._taken: dict[str, tuple[Lease, threading.Event]] = {}
        self._error: BaseException | None = None
        self._closed = False
        self._waits = True
        """For the first slots, or for some that were taken away: who follows the search wants to know why it stands still."""
        self._news = threading.Event()
        self._threads: list[threading.Thread] = []

    def request_resources(self, resource_request: ResourceRequest) -> None:
        with self._lock:
            self._requests += 1
            asks = self._requests > len(self._asking) + len(self._ready)
        if asks:
            self._threads.append(threading.Thread(target=self._follow, name="trial in the queue", daemon=True))
            self._threads[-1].start()

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        with self._lock:
            self._requests -= 1

    def has_resources_ready(self, resource_request: ResourceRequest) -> bool:
        if self._error is not None:
            raise self._error
        if not self._ready and not self._taken:  # Tune has nothing else to wait for, and would spin
            self._news.wait(LISTEN_S)
            self._news.clear()
        return bool(self._ready)

    def acquire_resources(self, resource_request: ResourceRequest) -> PlacementGroupAcquiredResources | None:
        with self._lock:
            if not self._ready:
                return None
            lease = self._ready.pop(0)
            self._requests -= 1
        group = group_of(lease.group_id)
        return PlacementGroupAcquiredResources(placement_group=group, resource_request=resource_request)

    def free_resources(self, acquired_resource: PlacementGroupAcquiredResources) -> None:
        found = self._taken.get(acquired_resource.placement_group.id.hex())
        if found is not None:
            found[1].set()

    def __enter__(self) -> FromQueue:
        return self

    def __exit__(self, *error: object) -> None:
        """All slots are given back when it returns."""
        self.clear()
        for thread in self._threads:
            thread.join()

    def clear(self) -> None:
        with self._lock:
            self._closed, asking = True, list(self._asking)
        for _, freed in list(self._taken.values()):
            freed.set()
        for job_id in asking:
            self._jobs.cancel(job_id)

    def _follow(self) -> None:
        job_id = ""

        def queued(name: str) -> None:
            nonlocal job_id
            job_id = name
            with self._lock:
                self._asking.add(name)

        def work(lease: Lease) -> None:
            freed = threading.Event()
            with self._lock:
                self._asking.discard(job_id)
                if self._closed or self._requests <= len(self._ready):
                    return
                self._taken[lease.group_id] = lease, freed
                self._waits = False
                self._ready.append(lease)
            self._news.set()
            try:
                self._until(freed, lease)
            finally:
                with self._lock:
                    del self._taken[lease.group_id]
                    if lease in self._ready:
                        self._ready.remove(lease)
                stop_file(self._folder, lease.group_id).unlink(missing_ok=True)
            if lease.stop() and not self._closed:
                with self._lock:
                    self._asking.add(job_id)
                    self._waits = True
                raise GaveWay

        try:
            self._jobs.run(work, self._demand, say=self._told, queued=queued, **self._options)
        except MlplatError as error:
            if not self._closed:
                self._error = error
                self._news.set()

    def _told(self, text: str) -> None:
        if self._waits:
            self._say(text)

    def _until(self, freed: threading.Event, lease: Lease) -> None:
        asked = False
        while not freed.wait(LISTEN_S):
            with self._lock:
                idle = lease in self._ready
            if lease.stop() and not asked:
                asked = True
                if idle:
                    return
                stop_file(self._folder, lease.group_id).touch()
