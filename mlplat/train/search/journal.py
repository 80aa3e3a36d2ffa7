"""The journal of a search on a disk: one line for each thing that happened, whole or not there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def open_journal(path: Path) -> JournalStorage:
    """Made if it is not there. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lock(path):  # a line that a kill cut off is not read
        pass
    return JournalStorage(JournalFileBackend(str(path), lock_obj=Lock(path)))  # type: ignore[arg-type]  # it has what is called


class Lock:
    """Held while a line is written, and by the kernel: it goes with the process that has it, where Optuna's own stay for half a
    minute. Whoever gets it removes what its last holder wrote of a line before it was killed or the disk was full: to that the
    next line would be added, and neither could be read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        self._file = self._path.open("ab+")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        _repair(self._file)
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _repair(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    end = size
    while end > 0:
        start = max(0, end - 65_536)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    file.truncate(end)
    file.flush()
    os.fsync(file.fileno())
