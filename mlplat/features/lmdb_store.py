"""LMDB, embedded: the online store and the durable log of pushed events. Both survive kill -9 at any point."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import lmdb

from mlplat.errors import Unavailable
from mlplat.features.codec import view_prefix
from mlplat.features.online import Change, Lifetime

# Address space, not disk: the file is sparse and grows with what is in it.
MAP_BYTES = 1 << 36


class Environments:
    """This process's open LMDB environments: LMDB forbids two of one path, so all who use a path share one.

    Looked up by process id as well, because an environment must not cross a fork.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[int, str], lmdb.Environment] = {}
        self._users: Counter[str] = Counter()
        self._guard = threading.Lock()

    def acquire(self, path: Path) -> None:
        with self._guard:
            self._users[str(path)] += 1

    def release(self, path: Path) -> None:
        """The last user closes it."""
        with self._guard:
            self._users[str(path)] -= 1
            if self._users[str(path)] <= 0 and (env := self._open.pop((os.getpid(), str(path)), None)) is not None:
                env.close()

    def get(self, path: Path, *, metasync: bool) -> lmdb.Environment:
        key = (os.getpid(), str(path))
        env = self._open.get(key)
        if env is not None:
            return env
        with self._guard:
            if key not in self._open:
                # What came over a fork: LMDB lets no process open a path twice, and closing it leaves the parent's as it is.
                for inherited in [held for held in self._open if held[1] == key[1]]:
                    self._open.pop(inherited).close()
                self._open[key] = _opened(path, metasync)
            return self._open[key]


def _opened(path: Path, metasync: bool) -> lmdb.Environment:
    try:
        path.mkdir(parents=True, exist_ok=True)
        env = lmdb.open(str(path), map_size=MAP_BYTES, max_readers=1024, metasync=metasync)
        env.reader_check()  # slots of processes that were killed
    except (lmdb.Error, OSError) as error:
        raise Unavailable(f"the store at {path} cannot be opened: {error}") from None
    return env


_ENVIRONMENTS = Environments()


class _Store:
    """One user of the environment of a path, until `close`."""

    # False: after a power cut, not a kill, the last transactions may be undone; the file stays whole.
    metasync: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._closed = False
        _ENVIRONMENTS.acquire(self._path)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _ENVIRONMENTS.release(self._path)

    @contextmanager
    def _begin(self, *, write: bool = False) -> Iterator[lmdb.Transaction]:
        env = self._environment()
        try:
            with env.begin(write=write) as txn:
                yield txn
        except lmdb.Error as error:
            raise self._failed(error) from error

    def _environment(self) -> lmdb.Environment:
        if self._closed:
            raise Unavailable(f"the store at {self._path} is closed; open the home again")
        return _ENVIRONMENTS.get(self._path, metasync=self.metasync)

    def _failed(self, error: lmdb.Error) -> Unavailable:
        return Unavailable(f"the store at {self._path} failed, and is as it was: {error}")


def _values(txn: lmdb.Transaction, keys: Sequence[bytes]) -> list[bytes | None]:
    get: Any = txn.get  # bytes, of a transaction without buffers
    return [get(key) for key in keys]


class LmdbStore(_Store):
    """The embedded online store. An update is one transaction, all or nothing, and so is a read. One writer at a time over
    all processes; readers never wait. Lifetimes are not used: what is there takes room until it is replaced."""

    # What a power cut may undo here is still in the push log or in the tables.
    metasync = False

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        env = self._environment()
        try:
            with env.begin() as txn:
                return _values(txn, keys)
        except lmdb.Error as error:
            raise self._failed(error) from error

    def update(self, keys: Sequence[bytes], change: Change, *, lifetimes: Sequence[Lifetime | None] = ()) -> None:
        with self._begin(write=True) as txn:
            before = _values(txn, keys)
            for key, old, new in zip(keys, before, change(before), strict=True):
                if new != old:
                    txn.put(key, new)

    def delete(self, view: str, version: str) -> None:
        prefix = view_prefix(view, version)
        with self._begin(write=True) as txn, txn.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                found = cursor.delete()


class PushLog(_Store):
    """Events that were pushed and are not in a table yet, in order. Several processes may append and remove."""

    def append(self, entries: Sequence[bytes]) -> None:
        """Durable when it returns."""
        with self._begin(write=True) as txn:
            number = self._last(txn)
            for entry in entries:
                number += 1
                txn.put(number.to_bytes(8, "big"), entry)
            txn.put(_COUNTER, number.to_bytes(8, "big"))

    def read(self, limit: int) -> list[tuple[int, bytes]]:
        """The oldest entries with their numbers."""
        found: list[tuple[int, bytes]] = []
        with self._begin() as txn, txn.cursor() as cursor:
            for key, entry in cursor:
                if len(key) != 8 or len(found) == limit:
                    break
                found.append((int.from_bytes(key, "big"), bytes(entry)))
        return found

    def last(self) -> int:
        """The number of the newest entry that was ever appended; 0 before the first."""
        with self._begin() as txn:
            return self._last(txn)

    def remove(self, numbers: Iterable[int]) -> None:
        with self._begin(write=True) as txn:
            for number in numbers:
                txn.delete(number.to_bytes(8, "big"))

    def _last(self, txn: lmdb.Transaction) -> int:
        return int.from_bytes(txn.get(_COUNTER, b""), "big")


# Sorts behind every 8-byte number below 2**63; it outlives the entries, so that a number is never used twice.
_COUNTER = b"\xff" * 9
