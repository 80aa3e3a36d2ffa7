"""Which run a call is: the same call finds the run that was begun and not finished, and goes on with it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mlplat.disk import write_atomically
from mlplat.errors import Conflict

_RUN, _EPOCHS, LOCK = "run.json", "epochs", "lock"
_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Where a run that is not finished keeps what it needs to go on."""

    path: Path

    @property
    def run_id(self) -> str | None:
        """That of the metadata store, once the run has begun."""
        try:
            found: str = json.loads((self.path / _RUN).read_bytes())["run_id"]
        except (OSError, ValueError, KeyError):
            return None
        return found

    def begin(self, run_id: str) -> None:
        write_atomically(self.path / _RUN, json.dumps({"run_id": run_id}).encode())

    def recorded(self, epoch: int) -> None:
        """The metadata store has the metrics of this epoch."""
        with (self.path / _EPOCHS).open("a") as file:
            file.write(f"{epoch}\n")

    def epochs(self) -> set[int]:
        """Those that were recorded."""
        try:
            return {int(line) for line in (self.path / _EPOCHS).read_text().split()}
        except FileNotFoundError:
            return set()

    def forget(self) -> None:
        """The same call begins anew."""
        for path in self.path.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _locked(path: Path) -> TextIO:
    """The file, open and locked. `Conflict` if another process has it."""
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its last holder removed it and its folder meanwhile: then once more
            lock = path.open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                    return lock
            except BlockingIOError:
                lock.close()
                break
            except FileNotFoundError:
                pass
            lock.close()
    raise Conflict(
        "another process is running this very training: the same data, network and settings. Wait for it, or change the seed"
    )


@contextmanager
def claimed(root: Path, identity: Mapping[str, Any]) -> Iterator[RunFolder]:
    """The folder of the run that has this identity, for this process alone. `Conflict` if another has it. It is removed when
    there is nothing in it to go on with."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:24]
    folder = RunFolder(path=root / key)
    with _locked(folder.path / LOCK):
        try:
            yield folder
        finally:
            if {path.name for path in folder.path.iterdir()} <= {LOCK}:
                shutil.rmtree(folder.path, ignore_errors=True)
