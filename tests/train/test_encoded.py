"""Rows are encoded once, by all workers of a node together, to the same bytes however many there are."""

from __future__ import annotations

import threading
from collections.abc import Sequence
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

    def share(self, numbers: Sequence[float]) -> list[float]:
        found: list[float] = self.gather(torch.tensor(numbers, dtype=torch.float64))[0].tolist()
        return found

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


class Overtaken(Alone):
    """While it encodes, at this one of its meetings, another run does the same from beginning to end."""

    def __init__(self, at: int, source: Source, cache: Path) -> None:
        self._at, self._source, self._cache = at, source, cache

    def gather(self, rows: torch.Tensor) -> list[torch.Tensor]:
        self._at -= 1
        if self._at == 0:
            open_rows(self._source, self._cache, Alone())
        return super().gather(rows)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_two_runs_that_encode_the_same_rows_do_not_meet(tmp_path: Path, at: int) -> None:
    source, cache = work(tmp_path, made={"rows": 500}).source, tmp_path / "cache"
    found, _ = open_rows(source, cache, Overtaken(at, source, cache))
    expected, _ = open_rows(source, tmp_path / "calm", Alone())
    assert torch.equal(found.numeric, expected.numeric)
    assert torch.equal(found.labels, expected.labels)
    assert [path.name for path in cache.iterdir()] == [source.key]


def test_only_the_rows_used_last_stay(tmp_path: Path) -> None:
    source = work(tmp_path, made={"rows": 500}).source
    for number in range(KEPT + 2):
        open_rows(replace(source, snapshot=str(number)), tmp_path / "cache", Alone())
    assert len(list((tmp_path / "cache").iterdir())) == KEPT
