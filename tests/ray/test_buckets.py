"""A join in buckets on Ray gives what one process gives, also when a process of it is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import InvalidInput, Unavailable
from mlplat.features import offline
from mlplat.features._ray.buckets import run_on_ray
from mlplat.features.bucket_join import columns
from mlplat.features.bucket_tasks import Rows
from mlplat.features.buckets import Plan
from mlplat.features.pool import InProcess
from mlplat.features.view_rows import ViewRows
from tests.features.support import StillClock, after, open_store

pytestmark = pytest.mark.ray

sales = F.source("sales", key="shop", time="at")


@F.view(sales)
class sums:
    total = F.sum("price", window="1m")
    last = F.last("price", window="1h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Writes a file; the first process that runs it dies in the middle, if so asked."""

    path: Path
    dies: bool = False

    def __call__(self) -> None:
        begun = self.path.with_suffix(".begun")
        if self.dies and not begun.exists():
            begun.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.path.write_text(str(os.getpid()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fails:
    error: Exception

    def __call__(self) -> None:
        raise self.error


def test_the_features_are_those_of_one_process(ray_cluster: Any, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for begin in range(0, 300, 100):
        store.ingest(sales, [{"shop": f"s{i % 9}", "at": after(i), "price": i / 3} for i in range(begin, begin + 100)])
    labels = pl.DataFrame({"shop": [f"s{i % 11}" for i in range(200)], "at": [after(2 * i) for i in range(200)]})
    rows = ViewRows(tmp_path, InProcess(), StillClock())
    found = columns(
        labels,
        Rows.of(sums, rows.source_table(sales)),
        time="at",
        plan=Plan(workers=2, buckets=4, bucket_bytes=2000, batch_rows=50, label_rows=20),
        root=tmp_path / "tmp",
        run=run_on_ray,
    )
    assert labels.hstack(found).equals(offline.join(labels, [sums], time="at", rows_of=rows.of))
    store.close()


def test_a_task_whose_process_is_killed_is_run_again_and_processes_are_few(ray_cluster: Any, tmp_path: Path) -> None:
    notes = [Note(path=tmp_path / f"{i}.txt", dies=i == 3) for i in range(8)]
    run_on_ray(notes, 2)
    assert len({note.path.read_text() for note in notes}) <= 3
    assert (tmp_path / "3.begun").exists()


def test_a_process_that_finds_no_core_keeps_nothing_waiting(ray_cluster: Any, tmp_path: Path) -> None:
    notes = [Note(path=tmp_path / f"{i}.txt") for i in range(8)]
    run_on_ray(notes, 2 * int(ray_cluster.total()["CPU"]))
    assert all(note.path.exists() for note in notes)


def test_what_a_task_raises_comes_out(ray_cluster: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^no such column$"):
        run_on_ray([Fails(error=InvalidInput("no such column"))], 2)
    with pytest.raises(Unavailable, match=r"a task of the join failed: .*disk is gone"):
        run_on_ray([Fails(error=OSError("disk is gone"))], 2)
