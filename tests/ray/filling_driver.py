"""`python -m tests.ray.filling_driver HOME GO`: a driver with a cluster of its own that backfills, and waits for the file GO
before its second commit."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import mlplat
from mlplat.features.table_version import TableVersion
from tests.features.filling import small_commits, squared


def wait_before_second_commit(go: Path) -> None:
    commit, commits = TableVersion.commit, iter(range(10**9))

    def gated(self: TableVersion, *args: Any, **kwargs: Any) -> int:
        if next(commits) == 1:
            turn = threading.Event()
            while not go.exists():
                turn.wait(0.02)
        return commit(self, *args, **kwargs)

    TableVersion.commit = gated  # type: ignore[method-assign]


if __name__ == "__main__":
    small_commits()
    wait_before_second_commit(Path(sys.argv[2]))
    with mlplat.connect(sys.argv[1]) as platform:
        platform.features.backfill(squared, wait=True)
