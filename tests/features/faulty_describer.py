"""A process that ingests, and kills itself before or after the write of the statistics.

`python -m tests.features.faulty_describer HOME TURN`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mlplat.features import statistics
from tests.features.shop import batch, sale, sales
from tests.features.support import open_store


def main(home: str, turn: str) -> None:
    store = open_store(Path(home))
    store.ingest(sales, batch(f"batch-{turn}"))
    store.describe(sales)
    store.ingest(sales, [sale(f"one-{turn}")])
    write = statistics.write_atomically

    def killed(path: Path, raw: bytes) -> None:
        if turn == "1":
            write(path, raw)
        os.kill(os.getpid(), signal.SIGKILL)

    statistics.write_atomically = killed
    store.describe(sales)


if __name__ == "__main__":
    main(*sys.argv[1:])
