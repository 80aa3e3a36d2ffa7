"""Backfills: every row once, whatever is killed, cancelled or compacted on the way; and any process sees how far."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from mlplat import features as F
from mlplat.errors import Conflict, InvalidInput, NotFound, Refused, UserCodeError
from mlplat.features import backfill
from mlplat.features.backfill import FEWEST_ROWS, chunk_rows
from mlplat.features.chunks import ChunkReader
from mlplat.features.definitions import View
from mlplat.features.pool import InProcess
from mlplat.features.store import FeatureStore
from mlplat.features.table_version import arrow_schema
from mlplat.features.tables import EventTable
from tests.features.filling import batch, fill_source, made, readings, squared, wanted
from tests.features.support import StillClock, after, open_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class Stepping(InProcess):
    """Makes a chunk when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.made = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def batch(
        self, view: View, reader: ChunkReader, *, stopped: Callable[[], bool]
    ) -> Generator[pl.DataFrame, None, None]:
        for rows in super().batch(view, reader, stopped=stopped):
            self.made.release()
            self.go.acquire()
            yield rows


@F.view(readings)
class failing:
    x: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        if (rows["value"] == 700.0).any():
            raise ValueError("no such reading")
        return rows.select(x=pl.col("value"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "COMMIT_BYTES", 1)


@pytest.fixture
def stepping(tmp_path: Path, small: None) -> Generator[tuple[FeatureStore, Stepping]]:
    pool = Stepping()
    store = FeatureStore(tmp_path, clock=StillClock(), pool=pool)
    fill_source(store)
    yield store, pool
    pool.go.release(1000)
    for operation in store.operations():
        operation.wait(timeout_s=30)


@pytest.mark.parametrize("kill_at", [2, 20, 38])
def test_a_backfill_that_is_killed_goes_on_with_every_row_once(tmp_path: Path, kill_at: int) -> None:
    store = open_store(tmp_path)
    fill_source(store)
    command = [sys.executable, "-m", "tests.features.filling", str(tmp_path), str(kill_at)]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -9
    (operation,) = store.operations()
    assert operation.status().state == "interrupted"
    DeltaTable(str(tmp_path / "tables" / "sources" / "readings")).optimize.compact()
    store.ingest(readings, batch(7, 500))
    resumed = operation.resume()
    resumed.result(timeout_s=60)
    assert resumed.status().state == "done"
    assert made(tmp_path).equals(wanted(tmp_path))
    assert store.history("squared")[-1].version == squared.version
    online = store.online(squared, {"sensor": ["s0", "s39", "none"]}, at=after(99_999)).to_arrow().to_pylist()
    joined = store.join(pl.DataFrame({"sensor": ["s0", "s39", "none"], "t": [after(99_999)] * 3}), [squared], time="t")
    assert [row["square"] for row in online] == joined["squared.square"].to_list()
    store.close()


def test_another_process_would_see_how_far_it_is_and_can_cancel_it(
    tmp_path: Path, stepping: tuple[FeatureStore, Stepping]
) -> None:
    store, pool = stepping
    operation = store.backfill(squared)
    assert pool.made.acquire(timeout=30)
    pool.go.release()
    assert pool.made.acquire(timeout=30)  # the first chunk is written
    other = open_store(tmp_path)
    seen = other.operation(operation.id).status()
    assert (seen.state, seen.phase, seen.total) == ("running", "rows", 6_000)
    assert other.backfill(squared).id == operation.id  # joins it
    with pytest.raises(Refused, match=r"is running at .* of 6,000 rows; wait for longer"):
        other.operation(operation.id).result(timeout_s=0)
    other.operation(operation.id).cancel()
    pool.go.release(1000)
    assert operation.wait(timeout_s=30).state == "cancelled"
    with pytest.raises(Refused, match=r"is cancelled at .* of 6,000 rows; go on with it by .*resume"):
        operation.result()
    some = made(tmp_path)
    assert 0 < some.height < 6_000
    assert some.join(wanted(tmp_path), on=some.columns, how="anti", nulls_equal=True).is_empty()
    assert store.views() == []
    other.backfill(squared, wait=True)
    assert other.operation(operation.id).status().state == "done"
    assert made(tmp_path).equals(wanted(tmp_path))
    other.close()
    store.close()


def test_closing_interrupts_and_the_next_process_goes_on(
    tmp_path: Path, stepping: tuple[FeatureStore, Stepping]
) -> None:
    store, pool = stepping
    operation = store.backfill(squared)
    assert pool.made.acquire(timeout=30)
    closing = threading.Thread(target=store.close)
    closing.start()
    pool.go.release(1000)
    closing.join(timeout=30)
    other = open_store(tmp_path)
    assert other.operation(operation.id).status().state == "interrupted"
    other.operation(operation.id).resume().result(timeout_s=30)
    assert made(tmp_path).equals(wanted(tmp_path))
    other.close()


def test_batches_that_come_meanwhile_are_made_too(tmp_path: Path, stepping: tuple[FeatureStore, Stepping]) -> None:
    store, pool = stepping
    operation = store.backfill(squared)
    assert pool.made.acquire(timeout=30)
    store.ingest(readings, batch(8, 1_500))
    pool.go.release(1000)
    operation.result(timeout_s=30)
    assert made(tmp_path).equals(wanted(tmp_path))
    assert made(tmp_path).height == 7_500
    store.close()


def test_a_second_writer_gets_a_conflict_and_no_row_is_there_twice(
    tmp_path: Path, stepping: tuple[FeatureStore, Stepping]
) -> None:
    store, pool = stepping
    operation = store.backfill(squared)
    assert pool.made.acquire(timeout=30)
    pool.go.release()
    assert pool.made.acquire(timeout=30)
    now = EventTable(tmp_path / "tables" / "views" / f"squared@{squared.version}").now()
    rows = now.read().drop("_batch").clear()  # as another process would, where a lock does not reach
    now.commit(arrow_schema(rows), [rows], ids={backfill.COMMITS: now.transaction(backfill.COMMITS) + 1})
    pool.go.release(1000)
    with pytest.raises(Conflict, match="view 'squared': another process makes its rows too; wait for it"):
        operation.result(timeout_s=30)
    operation.resume().result(timeout_s=30)
    assert made(tmp_path).equals(wanted(tmp_path))
    store.close()


def test_an_error_names_the_row_and_other_processes_get_it(tmp_path: Path, small: None) -> None:
    store = open_store(tmp_path)
    fill_source(store)
    message = (
        r"(?s)view 'failing': __call__ raised ValueError: no such reading at .*test_backfill.py:\d+.*'value': 700.0"
    )
    with pytest.raises(UserCodeError, match=message):
        store.backfill(failing, wait=True)
    store.backfill(failing).wait(timeout_s=30)
    store.close()
    other = open_store(tmp_path)
    (operation,) = other.operations()
    assert operation.status().state == "failed"
    with pytest.raises(UserCodeError, match=message):
        operation.result()
    with pytest.raises(NotFound, match="There is no operation 'failin'"):
        other.operation("failin")
    with pytest.raises(InvalidInput, match="backfill takes a view with rows of its own, and got str"):
        other.backfill("failing")  # type: ignore[arg-type]
    other.close()


@pytest.mark.parametrize(
    ("pending", "most", "actors", "rows"),
    [(10, 10**6, 1, FEWEST_ROWS), (16_000, 10**6, 2, 1_000), (10**9, 10**6, 2, 10**6), (10**9, 1, 2, 1)],
)
def test_chunks_keep_all_actors_at_work_and_fit_in_memory(pending: int, most: int, actors: int, rows: int) -> None:
    assert chunk_rows(pending, most, actors) == rows
