"""One process's connection to Ray: a cluster of its own on this machine, or one that it joins."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from mlplat._ray import record
from mlplat._ray.connect import authenticate, join, start_local
from mlplat._ray.connect import free_port as free_port
from mlplat.config import Environment

_LEAVE_S = 10.0


class Session:
    """Made by `start`, ended by `close`. Not for several threads at once.

    `address` is the cluster's "host:port"; `owned` says that this process started it and that `close` ends it.
    The output of workers is not copied to the terminal: it is in the files under `logs`.

    Ray ties a cluster that it starts to the starting thread: call `start` on one that lives as long as the session.
    """

    def __init__(self, *, address: str, owned: bool, connected: bool, shared: bool, home: Path, logs: Path) -> None:
        self.address = address
        self.owned = owned
        self.home = home
        self.logs = logs
        self._connected = connected
        self._shared = shared

    @classmethod
    def start(
        cls,
        address: str | None,
        *,
        home: Path,
        env: Environment,
        cpus: int | None = None,
        resources: Mapping[str, float] | None = None,
        tls: str | None = None,
    ) -> Session:
        """Connect this process to Ray.

        If it is connected already (a notebook, a test), that connection is used and `close` leaves it. Else it joins
        `address` ("auto", "host:port"), RAY_ADDRESS, or the cluster that another process shares for this home; else
        it starts a local one with `cpus` logical cores (default: all) and logical `resources` by name, whose endpoints speak TLS
        with the PEM file `tls`.

        Raises `Unavailable` if there is no cluster at the address or it wants another token.
        """
        import ray

        if ray.is_initialized():
            return cls._of_process(home, owned=False, connected=False)
        target = address or env.variables.get("RAY_ADDRESS")
        if target is None and (cluster := record.read_cluster(home)) is not None and cluster.shared:
            authenticate(record.token_file(home))
            target = cluster.address
        if target is not None:
            join(target, env)
            return cls._of_process(home, owned=False, connected=True)
        start_local(home, cpus, resources, tls)
        session = cls._of_process(home, owned=True, connected=True)
        session._remember(shared=False)
        return session

    @staticmethod
    def joins(address: str | None, *, home: Path, env: Environment) -> bool:
        """Whether `start` would join a cluster, and start none."""
        if address or "RAY_ADDRESS" in env.variables or _connected():
            return True
        cluster = record.read_cluster(home)
        return cluster is not None and cluster.shared

    @classmethod
    def _of_process(cls, home: Path, *, owned: bool, connected: bool) -> Session:
        import ray

        node = ray._private.worker._global_node
        return cls(
            address=node.gcs_address,
            owned=owned,
            connected=connected,
            shared=not node.is_head(),  # else this process has started it, with mlplat or without
            home=home,
            logs=Path(node.get_logs_dir_path()),
        )

    def share(self) -> None:
        """Let other processes that open this home join the cluster of this one. It still ends with this process."""
        if self.owned:
            self._remember(shared=True)
        self._shared = True

    @property
    def shared(self) -> bool:
        """Whether others may be on the cluster too: this process has joined it, or has let others join."""
        return self._shared

    def total(self) -> dict[str, float]:
        """All resources of the cluster by name ("CPU", "GPU", ...)."""
        import ray

        return dict(ray.cluster_resources())

    def available(self) -> dict[str, float]:
        """The resources that nobody holds now."""
        import ray

        return dict(ray.available_resources())

    def nodes(self) -> list[dict[str, Any]]:
        """`{"id", "address", "alive", "resources", "labels"}` of every node."""
        import ray

        return [
            {
                "id": node["NodeID"],
                "address": node["NodeManagerAddress"],
                "alive": node["Alive"],
                "resources": node["Resources"],
                "labels": node["Labels"],
            }
            for node in ray.nodes()
        ]

    def close(self) -> None:
        """Leave the cluster; end it with every process of it if this session started it. A second call does nothing."""
        if not self._connected:
            return
        self._connected = False
        import ray

        if not self.owned:
            ray.shutdown()
            return
        record.forget_cluster(self.home, os.getpid())
        processes = _processes_of_cluster()
        worker = ray._private.worker
        worker._worker_logs_enabled = False  # else Ray complains of each actor that is ended here
        try:
            with suppress(Exception):  # whatever Serve says at its end, the processes are ended below
                _stop_serve()
            ray.shutdown(wait_for_processes=True)
            _end(processes)
        finally:
            worker._worker_logs_enabled = True

    def _remember(self, *, shared: bool) -> None:
        other = record.read_cluster(self.home)
        if other is None or other.pid == os.getpid() or (shared and not other.shared):
            pid = os.getpid()
            record.write_cluster(
                self.home, record.Cluster(address=self.address, pid=pid, started=record.started(pid), shared=shared)
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _stop_serve() -> None:
    if "ray.serve" in sys.modules:
        from ray import serve

        serve.shutdown()


def _processes_of_cluster() -> list[psutil.Process]:
    """Every process that Ray started for the cluster of this process."""
    import ray

    found: list[psutil.Process] = []
    for _, process in ray._private.worker._global_node.live_processes():
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            found += [root, *root.children(recursive=True)]
    return found


def _end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=_LEAVE_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_LEAVE_S)
