"""The online store in the memory of one process: for tests, and the plainest of what a store does."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mlplat.errors import Unavailable
from mlplat.features.codec import view_prefix
from mlplat.features.online import Change, Lifetime


class MemoryStore:
    """An update is atomic as a whole. Lifetimes are not used: nothing is ever forgotten."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, bytes] = {}
        self._writing = threading.Lock()
        self._closed = False

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._check_open()
        return [self._blobs.get(key) for key in keys]

    def update(self, keys: Sequence[bytes], change: Change, *, lifetimes: Sequence[Lifetime | None] = ()) -> None:
        with self._writing:
            made = dict(zip(keys, change(self.get(keys)), strict=True))
            self._blobs.update(made)

    def delete(self, view: str, version: str) -> None:
        prefix = view_prefix(view, version)
        with self._writing:
            self._check_open()
            self._blobs = {key: blob for key, blob in self._blobs.items() if not key.startswith(prefix)}

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the online store in memory is closed")
