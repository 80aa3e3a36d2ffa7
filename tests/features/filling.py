"""The source and view that the tests of backfills use, and a process that is killed in the middle of one.

`python -m tests.features.filling HOME KILL_AT`: it kills itself at the n-th border between two steps of a write.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from mlplat import features as F
from mlplat.features import backfill
from mlplat.features.lmdb_store import LmdbStore
from mlplat.features.store import FeatureStore
from mlplat.features.table_version import TableVersion
from mlplat.features.tables import EventTable
from tests.features.faulty_writer import Borders
from tests.features.support import after, open_store

readings = F.source("readings", key="sensor", time="at", created="known_at")
SENSORS = 40


@F.view(readings, actors=(1, 2))
class squared:
    square: float
    word: str

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(square=pl.col("value") ** 2, word=pl.col("sensor") + "é")


def batch(number: int, rows: int) -> pl.DataFrame:
    """Times repeat across and within batches; each event has a correction in the same batch."""
    at = [i // 2 for i in range(rows)]
    return pl.DataFrame(
        {
            "sensor": [f"s{i % SENSORS}" for i in at],
            "at": [after(i // SENSORS) for i in at],
            "known_at": [after(10_000 * number + i % 2) for i in range(rows)],
            "value": [float(i) for i in at],
        }
    )


def fill_source(store: FeatureStore, *, batches: int = 3, rows: int = 2_000) -> None:
    for number in range(batches):
        store.ingest(readings, batch(number, rows))


def small_commits() -> None:
    backfill.COMMIT_BYTES = 1


def made(home: Path) -> pl.DataFrame:
    """The view's rows, in an order of their own."""
    rows = EventTable(home / "tables" / "views" / f"squared@{squared.version}").read()
    return rows.drop("_batch").sort("at", "_id", "known_at")


def wanted(home: Path) -> pl.DataFrame:
    rows = EventTable(home / "tables" / "sources" / "readings").read().sort("at", "_id", "known_at")
    return rows.select("sensor", "at", "known_at", "_id", square=pl.col("value") ** 2, word=pl.col("sensor") + "é")


def main(home: str, kill_at: str) -> None:
    small_commits()
    borders = Borders(int(kill_at))
    for owner, name in ((LmdbStore, "update"), (TableVersion, "commit")):
        setattr(owner, name, borders.around(getattr(owner, name)))
    open_store(Path(home)).backfill(squared, wait=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
