"""Own machines: an inventory of hosts, of which those that answer are there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlplat.clock import Clock
from mlplat.cluster.site import NoCapacity, Seen

PROBE_EVERY_S, PROBE_TIMEOUT_S = 10.0, 2.0
Alive = Callable[[str], bool]


def answers(port: int) -> Alive:
    """Whether a host takes connections there."""

    def alive(host: str) -> bool:
        try:
            socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    return alive


class Hosts:
    """`Site` of machines that are not made and do not end: to create one is to take it into the cluster. What was taken is kept
    by `tags`, which outlive this object if the mapping does."""

    def __init__(self, tags: dict[str, dict[str, str]], alive: Alive, clock: Clock) -> None:
        self._tags, self._alive, self._clock = tags, alive, clock
        self._known: dict[str, tuple[float, bool]] = {}
        self._lock = threading.RLock()

    def machines(self) -> Mapping[str, Seen]:
        """Those that were taken, and answer."""
        with self._lock:
            taken = {host: dict(tags) for host, tags in self._tags.items()}
        there = self._answering(list(taken))
        return {host: Seen(tags=tags) for host, tags in taken.items() if host in there}

    def create(self, node: Mapping[str, Any], tags: Mapping[str, str], count: int) -> Sequence[str]:
        hosts = [str(host) for host in node["hosts"]]
        there = self._answering(hosts)
        with self._lock:
            free = [host for host in hosts if host in there and host not in self._tags][:count]
            if not free:
                silent = [host for host in hosts if host not in there]
                said = f"; {', '.join(silent)} do not answer" if silent else ""
                raise NoCapacity(f"all {len(hosts) - len(silent)} hosts that answer are in the cluster{said}")
            for host in free:
                self._tags[host] = dict(tags)
        return free

    def terminate(self, names: Sequence[str]) -> None:
        with self._lock:
            for name in names:
                self._tags.pop(name, None)

    def address(self, name: str) -> str:
        return name

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        with self._lock:
            if name in self._tags:
                self._tags[name].update(tags)

    def silent(self) -> Sequence[str]:
        """Those that did not answer when they were asked last."""
        with self._lock:
            return [host for host, (_, there) in self._known.items() if not there]

    def _answering(self, hosts: Sequence[str]) -> set[str]:
        """All are asked at once, each every few seconds."""
        now_s = self._clock.elapsed_s()
        with self._lock:
            old = [h for h in hosts if h not in self._known or now_s - self._known[h][0] >= PROBE_EVERY_S]
        if old:
            with ThreadPoolExecutor(min(32, len(old)), thread_name_prefix="probe") as pool:
                found = dict(zip(old, pool.map(self._alive, old), strict=True))
            with self._lock:
                self._known.update({host: (now_s, there) for host, there in found.items()})
        with self._lock:
            return {host for host in hosts if self._known[host][1]}
