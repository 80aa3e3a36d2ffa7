"""A process that pushes, ingests and compacts in a home until it is killed, or kills itself between two steps of a write.

`python faulty_writer.py HOME ROUND KILL_AT COUNT`: KILL_AT counts the borders between steps; 0 is never. Every line
that it prints is a promise: what the line names is safe.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlplat.features.lmdb_store import LmdbStore, PushLog
from mlplat.features.table_version import TableVersion
from mlplat.features.tables import EventTable
from tests.features.shop import batch, recent, sale, sales
from tests.features.support import open_store


class Borders:
    """Kills this process at the n-th border between two steps."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at

    def cross(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.cross()
            result = step(*args, **kwargs)
            self.cross()
            return result

        return stepped


def main(home: str, turn: str, kill_at: str, count: str) -> None:
    store = open_store(Path(home))
    store.apply(recent)
    borders = Borders(int(kill_at))
    steps = (
        (LmdbStore, "update"),
        (PushLog, "append"),
        (PushLog, "remove"),
        (TableVersion, "commit"),
        (EventTable, "compact"),
    )
    for owner, name in steps:
        setattr(owner, name, borders.around(getattr(owner, name)))
    for i in range(int(count)):
        event = sale(f"push-{turn}-{i}")
        store.push(sales, event)
        print(event["sale_id"], flush=True)
        if i % 3 == 2:
            name = f"batch-{turn}-{i}"
            store.ingest(sales, batch(name), batch_id=name)
            print(name, flush=True)
        if i % 4 == 3:
            store.compact(sales)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
