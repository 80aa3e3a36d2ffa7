"""Rows are encoded once, by all workers of a node together, to the same bytes however many there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mlplat.errors import Unavailable
from mlplat.train import encoded, row_cache
from mlplat.train.encoded import Rows
from mlplat.train.gang import Alone, Gang
from mlplat.train.row_cache import CHECK_S, KEPT
from mlplat.train.work import Source
from tests.train.support import OneOf, work

NOW_US = 1_780_000_000 * 1_000_000
DAY_US = CHECK_S * 1_000_000


def open_rows(source: Source, cache: Path, gang: Gang, now_us: int = NOW_US) -> tuple[Rows, Rows]:
    return encoded.open_rows(source, cache, gang, now_us=now_us)


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


def test_they_may_take_a_part_of_the_disk_and_those_of_this_run_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = work(tmp_path, made={"rows": 500}).source
    cache = tmp_path / "cache"
    open_rows(source, cache, Alone())
    size = sum(file.stat().st_size for file in cache.rglob("*.npy"))
    monkeypatch.setattr(row_cache.shutil, "disk_usage", lambda path: _Disk(total=5 * 2.5 * size, free=10 * size))
    for number in range(3):
        open_rows(replace(source, snapshot=str(number)), cache, Alone())
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(row_cache.shutil, "disk_usage", lambda path: _Disk(total=1, free=10 * size))
    open_rows(source, cache, Alone())
    assert [path.name for path in cache.iterdir()] == [source.key]


@dataclass(frozen=True)
class _Disk:
    total: float
    free: float


def test_where_they_find_no_room_it_says_so_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = work(tmp_path, made={"rows": 500}).source
    monkeypatch.setattr(row_cache.shutil, "disk_usage", lambda path: _Disk(total=1e9, free=500))
    with pytest.raises(Unavailable, match=r"take 0\.0 GB, and .*cache has 0\.0 GB left: .*MLPLAT_SCRATCH"):
        open_rows(source, tmp_path / "cache", Alone())
    assert not list((tmp_path / "cache").iterdir())


def test_old_sets_make_room_only_where_that_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = work(tmp_path, made={"rows": 500}).source, tmp_path / "cache"
    for number in range(2):
        open_rows(replace(source, snapshot=str(number)), cache, Alone())
        os.utime(cache / replace(source, snapshot=str(number)).key, (number, number))
    size = sum(file.stat().st_size for file in cache.rglob("*.npy")) // 2
    there = {folder.name for folder in cache.iterdir()}
    disk = lambda path: _Disk(total=1e9, free=room - size * len(list(cache.glob("[!.]*"))))  # noqa: E731
    monkeypatch.setattr(row_cache.shutil, "disk_usage", disk)
    room = 0.5 * size
    with pytest.raises(Unavailable, match="make room there"):
        open_rows(source, cache, Alone())
    assert {folder.name for folder in cache.iterdir()} == there
    room = 2.5 * size
    open_rows(source, cache, Alone())
    assert {folder.name for folder in cache.iterdir()} == {replace(source, snapshot="1").key, source.key}


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def _flipped(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize(("harm", "later_us"), [(_cut, 0), (Path.unlink, 0), (_flipped, DAY_US)])
def test_rows_that_are_not_what_was_written_are_encoded_again(
    tmp_path: Path, harm: Callable[[Path], None], later_us: int
) -> None:
    source, cache = work(tmp_path, made={"rows": 500}).source, tmp_path / "cache"
    rows, _ = open_rows(source, cache, Alone())
    before = rows.numeric.clone()
    harm(cache / source.key / "learn" / "numeric.npy")
    said: list[str] = []
    rows, _ = encoded.open_rows(source, cache, Alone(), now_us=NOW_US + later_us, say=said.append)
    assert said == ["the encoded rows of 1 node were damaged: they are encoded again"]
    assert torch.equal(rows.numeric, before)
    encoded.open_rows(source, cache, Alone(), now_us=NOW_US + 3 * later_us, say=said.append)
    assert len(said) == 1
    assert [path.name for path in cache.iterdir()] == [source.key]


def test_every_byte_is_looked_at_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = work(tmp_path, made={"rows": 500}).source, tmp_path / "cache"
    open_rows(source, cache, Alone())
    looked: list[Path] = []
    of = row_cache._sum
    monkeypatch.setattr(row_cache, "_sum", lambda file: looked.append(file) or of(file))  # type: ignore[func-returns-value]
    monkeypatch.setattr(encoded, "_encode", None)
    for hours, looks in ((1, 0), (23, 0), (24, 6), (25, 6), (48, 12)):
        open_rows(source, cache, Alone(), NOW_US + hours * 3_600 * 1_000_000)
        assert len(looked) == looks


def test_what_a_kill_cut_off_goes_a_day_later(tmp_path: Path) -> None:
    source, cache = work(tmp_path, made={"rows": 500}).source, tmp_path / "cache"
    for name, age_s in ((".unfinished-a", 1), (".unfinished-b", CHECK_S + 1), (".gone-c", CHECK_S + 1)):
        (cache / name / "learn").mkdir(parents=True)
        os.utime(cache / name, (NOW_US / 1e6 - age_s,) * 2)
    open_rows(source, cache, Alone())
    assert sorted(path.name for path in cache.iterdir()) == [".unfinished-a", source.key]
