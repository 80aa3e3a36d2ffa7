"""LMDB, embedded: the online store and the durable log of pushed events. Both survive kill -9 at any point."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import lmdb

from mlplat.errors import Unavailable

# Address space, not disk: the file is sparse and grows with what is in it.
MAP_BYTES = 1 << 36
_ENVIRONMENTS: dict[tuple[int, str, bool], lmdb.Environment] = {}
_GUARD = threading.Lock()

Change = Callable[[list[bytes | None]], list[bytes]]


def environment(path: Path, *, readonly: bool) -> lmdb.Environment:
    """One environment per process and path: LMDB forbids two, and one must not cross a fork (hence the process id)."""
    key = (os.getpid(), str(path), readonly)
    with _GUARD:
        if key not in _ENVIRONMENTS:
            try:
                path.mkdir(parents=True, exist_ok=True)
                env = lmdb.open(str(path), map_size=MAP_BYTES, max_readers=1024, readonly=readonly)
                env.reader_check()  # slots of processes that were killed
            except lmdb.Error as error:
                raise Unavailable(f"the online store at {path} cannot be opened: {error}") from None
            _ENVIRONMENTS[key] = env
        return _ENVIRONMENTS[key]


def close(path: Path) -> None:
    """Close this process's environments of a path. Nothing may use them afterwards."""
    with _GUARD:
        for key in [k for k in _ENVIRONMENTS if k[0] == os.getpid() and k[1] == str(path)]:
            _ENVIRONMENTS.pop(key).close()


class LmdbStore:
    """The embedded online store: bytes by key. One writer at a time over all processes; readers never wait."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._path = path
        if readonly and not (path / "data.mdb").exists():
            environment(path, readonly=False)
            close(path)
        self._readonly = readonly

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The blobs of one moment, None where there is none."""
        with environment(self._path, readonly=self._readonly).begin(buffers=False) as txn:
            return [txn.get(key) for key in keys]

    def update(self, keys: Sequence[bytes], change: Change) -> None:
        """Replace the blobs of `keys` by what `change` makes of them: one durable transaction, all or nothing."""
        with environment(self._path, readonly=False).begin(write=True) as txn:
            for key, blob in zip(keys, change([txn.get(key) for key in keys]), strict=True):
                txn.put(key, blob)

    def close(self) -> None:
        close(self._path)


class PushLog:
    """Events that were pushed and are not in a table yet, in order. Several processes may append; who flushes holds a lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, entries: Sequence[bytes]) -> None:
        """Durable when it returns."""
        with environment(self._path, readonly=False).begin(write=True) as txn:
            number = self._last(txn)
            for entry in entries:
                number += 1
                assert txn.put(number.to_bytes(8, "big"), entry, overwrite=False)
            txn.put(_COUNTER, number.to_bytes(8, "big"))

    def read(self, limit: int) -> list[tuple[int, bytes]]:
        """The oldest entries with their numbers."""
        found: list[tuple[int, bytes]] = []
        with environment(self._path, readonly=False).begin() as txn, txn.cursor() as cursor:
            for key, entry in cursor:
                if len(key) != 8 or len(found) == limit:
                    break
                found.append((int.from_bytes(key, "big"), entry))
        return found

    def last(self) -> int:
        """The number of the newest entry that was ever appended; 0 before the first."""
        with environment(self._path, readonly=False).begin() as txn:
            return self._last(txn)

    def remove(self, numbers: Iterable[int]) -> None:
        with environment(self._path, readonly=False).begin(write=True) as txn:
            for number in numbers:
                txn.delete(number.to_bytes(8, "big"))

    def close(self) -> None:
        close(self._path)

    def _last(self, txn: lmdb.Transaction) -> int:
        return int.from_bytes(txn.get(_COUNTER, b""), "big")


# Sorts behind every 8-byte number below 2**63; it outlives the entries, so that a number is never used twice.
_COUNTER = b"\xff" * 9
