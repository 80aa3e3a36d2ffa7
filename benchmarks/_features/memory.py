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
    """`bytes` is the most that the working processes had at once over their idle sizes; `parts` says which had how much.

    It counts memory that only the processes can give back, shared pages once. Mapped files are not in it: the system drops
    them when it needs the room. A worker of Ray has the idle size `worker`, whenever it starts.
    """

    def __init__(self, idle: Mapping[int, int], worker: int) -> None:
        self._idle = idle
        self._worker = worker
        self.bytes = 0
        self.parts = ""

    def look(self) -> None:
        over = {(pid, name): max(0, size - self._idle_size(pid, name)) for (pid, name), size in sizes().items()}
        if (total := sum(over.values())) > self.bytes:
            self.bytes = total
            self.parts = ", ".join(f"{name} {size >> 20} MiB" for (_, name), size in over.items() if size >> 20)

    def _idle_size(self, pid: int, name: str) -> int:
        return self._worker if name.startswith("ray::") else self._idle.get(pid, 0)


@contextmanager
def peak(*, worker: int) -> Iterator[Peak]:
    """While it is open; every process but Ray's workers is idle when it opens."""
    found = Peak({pid: size for (pid, _), size in sizes().items()}, worker)
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


def sizes() -> dict[tuple[int, str], int]:
    """Bytes by process and its name: of this one, the workers below it, and the raylet, which has what they share."""
    me = psutil.Process()
    below = {process.pid: _name(process.pid) for process in me.children(recursive=True)}
    working = {pid: name for pid, name in below.items() if _works(name)}
    return {(pid, name): size(pid) for pid, name in {me.pid: "driver", **working}.items()}


def size(pid: int) -> int:
    """0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(_COUNTED))


def _works(name: str) -> bool:
    """Ray's agents (their names are like those of workers) watch, and do no work of ours."""
    return name == "raylet" or (name.startswith("ray::") and not name.endswith("Agent"))


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].split()
    except OSError:
        return ""
    return words[0].decode().rsplit("/", 1)[-1] if words else ""
