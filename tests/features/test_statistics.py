"""Statistics kept with the data: each batch counts once, whatever happens."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import Corrupt
from mlplat.features import statistics
from mlplat.features.spans import DAY_US
from mlplat.features.statistics import Statistics, covering, newest_rows
from mlplat.features.tables import EventTable
from tests.features.shop import batch, sale, sales
from tests.features.support import START, START_US, after, open_store

ROOT = Path(__file__).parents[2]
DAY = 86_400

orders = F.source("orders", key="shop", time="at", id="n")


def rows(first: int, count: int, *, day: int = 0, **more: pl.Expr) -> pl.DataFrame:
    frame = pl.DataFrame({"n": range(first, first + count)})
    return frame.with_columns(
        shop=pl.lit("one"), at=pl.lit(after(day * DAY)), price=pl.col("n").cast(pl.Float64), **more
    )


def kept(home: Path) -> statistics.Kept:
    return Statistics(home).of("sources/orders", EventTable(home / "tables" / "sources" / "orders"), "at")


@pytest.mark.slow
def test_only_new_batches_are_read_and_every_row_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    read: list[int] = []
    original = EventTable.read

    def counted(self: EventTable, columns: list[str] | None = None, *, after_batch: int = -1) -> pl.DataFrame:
        frame = original(self, columns, after_batch=after_batch)
        read.append(frame.height)
        return frame

    for at in range(4):
        store.ingest(orders, rows(at * 10, 10, day=at % 3))
        monkeypatch.setattr(EventTable, "read", counted)
        found = kept(tmp_path)
        monkeypatch.undo()
        assert set(read) == {10}
        read.clear()
        assert sum(sketch.rows for sketch in found.values()) == (at + 1) * 10
    assert kept(tmp_path) == found
    assert [(s[0] * DAY_US - START_US) // DAY_US for s in found] == [0, 1, 2]
    assert found[next(iter(found))].columns["price"].high == 39.0
    store.close()


def test_a_failure_at_any_step_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    store.ingest(orders, rows(0, 10))

    def fail(path: Path, raw: bytes) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(statistics, "write_atomically", fail)
    with pytest.raises(OSError, match="full"):
        kept(tmp_path)
    monkeypatch.undo()
    store.ingest(orders, rows(10, 5))
    assert [sketch.rows for sketch in kept(tmp_path).values()] == [15]
    store.close()


@pytest.mark.slow
def test_processes_killed_around_the_write_count_every_row_once(tmp_path: Path) -> None:
    for turn in range(2):
        command = [sys.executable, "-m", "tests.features.faulty_describer", str(tmp_path), str(turn)]
        assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -9
    store = open_store(tmp_path)
    described = store.describe(sales)
    assert described.sketch.rows == 2 * len(batch("x")) + 2
    assert described.sketch.columns["sale_id"].count == described.sketch.rows
    store.close()


def test_a_column_that_comes_later_is_null_before(tmp_path: Path) -> None:
    old, new = rows(0, 3).with_columns(_id=pl.col("n")), rows(3, 2, x=pl.lit(1.5)).with_columns(_id=pl.col("n"))
    table = EventTable(tmp_path / "t")
    table.append(old, app="a", number=1)
    first = Statistics(tmp_path).of("sources/t", table, "at")
    both = statistics._merged(list(first), first, {next(iter(first)): statistics.TableSketch.of(new)})
    (sketch,) = both.values()
    assert (sketch.rows, sketch.columns["x"].nulls, sketch.columns["x"].count) == (5, 3, 2)


def test_a_data_set_that_was_begun_again_is_counted_anew(tmp_path: Path) -> None:
    big, small = EventTable(tmp_path / "big"), EventTable(tmp_path / "small")
    for number in range(3):
        big.append(rows(number, 1).with_columns(_id=pl.col("n")), app="a", number=number)
    small.append(rows(7, 1).with_columns(_id=pl.col("n")), app="a", number=1)
    kept_by = Statistics(tmp_path)
    assert [sketch.rows for sketch in kept_by.of("sources/x", big, "at").values()] == [3]
    assert [sketch.rows for sketch in kept_by.of("sources/x", small, "at").values()] == [1]


@pytest.mark.slow
def test_the_file_is_bounded_by_spans_and_not_by_days_or_rows(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    days = pl.DataFrame({"n": range(2_000)}).with_columns(
        shop=pl.lit("one"),
        at=pl.lit(START) + pl.duration(days="n"),
        price=pl.col("n").cast(pl.Float64),
    )
    store.ingest(orders, days)
    found = kept(tmp_path)
    assert sum(sketch.rows for sketch in found.values()) == 2_000
    assert len(found) <= 128
    assert (tmp_path / "statistics" / "sources" / "orders.stats").stat().st_size < 128 * 4 * 2_048
    store.close()


def test_covering_takes_spans_that_touch_the_asked_time_whole(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for day in range(4):
        store.ingest(orders, rows(day * 10, 10, day=day))
    found = kept(tmp_path)

    def asked(since: datetime | None, until: datetime | None) -> tuple[int, int]:
        us = [None if t is None else START_US + (t - START) // timedelta(microseconds=1) for t in (since, until)]
        part = covering(found, since_us=us[0], until_us=us[1])
        assert part.since_us is not None
        return part.sketch.rows, (part.since_us - START_US) // DAY_US

    assert asked(None, None) == (40, 0)
    assert asked(after(DAY), None) == (30, 1)
    assert asked(after(DAY + 1), after(2 * DAY)) == (10, 1)
    assert asked(after(DAY - 1), after(2 * DAY + 1)) == (30, 0)
    assert covering(found, since_us=0, until_us=1).since_us is None
    assert newest_rows(found, 11).rows == 20
    assert newest_rows(found, 1_000).rows == 40
    store.close()


def test_a_broken_file_is_said_so(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.push(sales, sale("first"))
    store.describe(sales)
    (tmp_path / "statistics" / "sources" / "sales.stats").write_bytes(b"nonsense")
    with pytest.raises(Corrupt, match="is not what was written"):
        store.describe(sales)
    store.close()
