"""How much memory a piece of work takes: all processes of this one, over what they take when they do nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

EVERY_S = 0.05
_COUNTED = ("Pss_Anon:", "Pss_Shmem:")


class Peak:
    """`bytes` is the most that all processes had at once over their idle sizes.

    It counts memory that only the processes can give back, shared pages once. Mapped files are not in it: the system drops
    them when it needs the room. A worker that starts meanwhile has the idle size `worker`.
    """

    def __init__(self, idle: Mapping[int, int], worker: int) -> None:
        self._idle = idle
        self._worker = worker
        self.bytes = 0

    def look(self) -> None:
        now = sizes()
        self.bytes = max(self.bytes, sum(max(0, size - self._of_idle(pid)) for pid, size in now.items()))

    def _of_idle(self, pid: int) -> int:
        return self._worker if is_worker(pid) else self._idle.get(pid, 0)


@contextmanager
def peak(*, worker: int) -> Iterator[Peak]:
    """While it is open; every process but Ray's workers is idle when it opens."""
    found = Peak(sizes(), worker)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(EVERY_S):
            found.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def sizes() -> dict[int, int]:
    """Bytes by process, of this one and all below it."""
    me = psutil.Process()
    return {process.pid: size(process.pid) for process in (me, *me.children(recursive=True))}


def size(pid: int) -> int:
    """0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(_COUNTED))


def is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False
