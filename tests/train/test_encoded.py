"""Rows are encoded once, by all workers of a node together, to the same bytes however many there are."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mlplat.train import encoded
from mlplat.train.encoded import KEPT, Rows, open_rows
from mlplat.train.gang import Alone
from mlplat.train.work import Source
from tests.train.support import OneOf, work


class Threads(OneOf):
    """Workers that are threads of one process."""

    def __init__(self, rank: int, barrier: threading.Barrier, shared: list[torch.Tensor]) -> None:
        super().__init__(rank, barrier.parties)
        self.local_rank, self.local_size = rank, barrier.parties
        self._barrier, self._shared = barrier, shared

    def gather(self, rows: torch.Tensor) -> list[torch.Tensor]:
        self._shared[self.rank] = rows
        self._barrier.wait(30)
        found = list(self._shared)
        self._barrier.wait(30)
        return found


def by_workers(count: int, source: Source, cache: Path) -> list[tuple[Rows, Rows]]:
    barrier, shared = threading.Barrier(count), [torch.empty(0)] * count
    with ThreadPoolExecutor(count) as pool:
        made = pool.map(lambda rank: open_rows(source, cache, Threads(rank, barrier, shared)), range(count))
        return list(made)


def test_rows_are_those_of_the_table_in_its_order_however_many_workers_encode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = work(tmp_path, made={"rows": 1_001}).source
    monkeypatch.setattr(encoded, "CHUNK_ROWS", 100)
    with pa.memory_map(str(source.path)) as file:
        table = pa.ipc.open_file(file).read_all()
    late = table["time"].cast(pa.int64()).to_numpy() >= source.cut_us
    numeric, codes = source.encoding.encode(table.select(source.encoding.names))
    for count in (1, 3):
        for found in by_workers(count, source, tmp_path / str(count)):
            for rows, mask in zip(found, (~late, late), strict=True):
                assert np.array_equal(rows.numeric.numpy(), numeric[mask])
                assert np.array_equal(rows.codes.numpy(), codes[mask])
                assert np.array_equal(rows.labels.numpy(), table["label"].to_numpy()[mask])
    assert [path.name for path in (tmp_path / "3").iterdir()] == [source.key]


def test_they_are_not_encoded_again_and_a_batch_has_its_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = work(tmp_path, made={"rows": 500}).source
    open_rows(source, tmp_path / "cache", Alone())
    monkeypatch.setattr(encoded, "_encode", None)
    rows, _ = open_rows(source, tmp_path / "cache", Alone())
    batch = rows.take(torch.tensor([3, 1]), torch.device("cpu"))
    assert (batch.numeric.dtype, batch.codes.dtype, batch.labels.dtype) == (torch.float32, torch.int64, torch.float32)
    assert torch.equal(batch.numeric, rows.numeric[[3, 1]])


def test_what_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    source = work(tmp_path, made={"rows": 500}).source
    unfinished = tmp_path / "cache" / f".unfinished-{source.key}-0"
    unfinished.mkdir(parents=True)
    (unfinished / "learn").touch()
    rows, held_out = open_rows(source, tmp_path / "cache", Alone())
    assert len(rows) + len(held_out) == 500


def test_only_the_rows_used_last_stay(tmp_path: Path) -> None:
    source = work(tmp_path, made={"rows": 500}).source
    for number in range(KEPT + 2):
        open_rows(replace(source, snapshot=str(number)), tmp_path / "cache", Alone())
    assert len(list((tmp_path / "cache").iterdir())) == KEPT
