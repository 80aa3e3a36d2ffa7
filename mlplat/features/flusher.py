"""The thread that brings pushed events into their tables, for as long as a process pushes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mlplat.errors import MlplatError

FLUSH_S = 5.0
_LOG = logging.getLogger(__name__)


class Flusher:
    """Calls `flush` every 5 s from the first `start` until `stop`. Thread-safe."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._flush_often, name="mlplat-flush", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _flush_often(self) -> None:
        while not self._stopped.wait(FLUSH_S):
            try:
                self._flush()
            except MlplatError as error:
                # The events are safe in the log; the next round, or the next offline read, tries again.
                _LOG.warning("pushed events could not be brought into their tables yet: %s", error)
