"""The rows of a run, encoded once and kept on the node's disk (`row_cache`), where all workers of the node map them: for all
epochs, and for the next run on the same rows. Imports torch.

A folder for each set of rows, named by what it was made of; numbers are float32, codes int32. It is written under another
name, by all workers of the node together.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from mlplat.train import row_cache
from mlplat.train.gang import Gang
from mlplat.train.rows import encoded_labels, times_of
from mlplat.train.work import Source

Array = np.ndarray[Any, Any]

LABELS = {"binary": np.float32, "multiclass": np.int64, "regression": np.float32}
PARTS = ("learn", "held_out")
CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Encoded rows, mapped from disk or in memory."""

    numeric: torch.Tensor
    codes: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Any, device: torch.device) -> Batch:
        numeric, codes, labels = self.numeric[rows], self.codes[rows], self.labels[rows]
        return Batch(numeric=numeric.to(device), codes=codes.to(device).long(), labels=labels.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """n rows on the worker's device: float32 [n, numbers], int64 [n, categorical columns], and labels [n]."""

    numeric: torch.Tensor
    codes: torch.Tensor
    labels: torch.Tensor


def open_rows(
    source: Source, cache: Path, gang: Gang, *, now_us: int, say: Callable[[str], None] = lambda said: None
) -> tuple[Rows, Rows]:
    """Those to learn from and those held out. Encoded now if a node does not have them, or not as they were written; all workers
    call it. `Unavailable` where they find no room."""
    folder = cache / source.key
    lacks = _lacks(folder, gang, now_us)
    if any(lacks):
        if damaged := sum(one == _DAMAGED for one in lacks):
            say(f"the encoded rows of {damaged} node{'s' * (damaged > 1)} were damaged: they are encoded again")
        mark = int(gang.share([float(secrets.randbits(48))])[0])  # another run may encode the same rows meanwhile
        unfinished = cache / f".unfinished-{source.key}-{mark:x}-{gang.rank - gang.local_rank}"
        _encode(source, unfinished, gang)
        if gang.local_rank == 0:
            row_cache.seal(unfinished, now_us)
            row_cache.place(unfinished, folder)
            row_cache.use(folder)
            row_cache.prune(cache, now_us)
        gang.gather(torch.zeros(1))  # the rows are there
    row_cache.use(folder)
    learn, held_out = (_mapped(folder, part) for part in PARTS)
    return learn, held_out


_ABSENT, _DAMAGED = 1, 2


def _lacks(folder: Path, gang: Gang, now_us: int) -> list[int]:
    """Of each node, by the first of its workers."""
    lacks = 0
    if gang.local_rank == 0 and not row_cache.is_whole(folder, now_us):
        lacks = _DAMAGED if row_cache.was_sealed(folder) else _ABSENT
        row_cache.remove(folder)
    return [int(one.item()) for one in gang.gather(torch.tensor([float(lacks)]))]


def _encode(source: Source, folder: Path, gang: Gang) -> None:
    """Every worker of a node encodes its share of the chunks."""
    with pa.memory_map(str(source.path)) as file:
        table = pa.ipc.open_file(file).read_all()
    held_out = times_of(table, source.time) >= source.cut_us
    counts = {"learn": int((~held_out).sum()), "held_out": int(held_out.sum())}
    if gang.local_rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        row_cache.require_room(folder.parent, sum(counts.values()) * _row_bytes(source))
        for part in PARTS:
            _create(folder / part, source, counts[part])
    gang.gather(torch.zeros(1))  # the files are there
    arrays = {part: _arrays(folder / part, "r+") for part in PARTS}
    start, written = 0, dict.fromkeys(PARTS, 0)
    for number, chunk in enumerate(table.to_batches(max_chunksize=CHUNK_ROWS)):
        late = held_out[start : start + chunk.num_rows]
        for part, rows in zip(PARTS, (np.flatnonzero(~late), np.flatnonzero(late)), strict=True):
            if number % gang.local_size == gang.local_rank and len(rows):
                _fill(arrays[part], written[part], source, pa.Table.from_batches([chunk]), rows)
            written[part] += len(rows)
        start += chunk.num_rows
    for part in PARTS:
        for array in arrays[part].values():
            array.flush()
    gang.gather(torch.zeros(1))  # the files are full


def _create(folder: Path, source: Source, rows: int) -> None:
    folder.mkdir(parents=True)
    shapes = {
        "numeric": (np.float32, (rows, source.encoding.width)),
        "codes": (np.int32, (rows, len(source.encoding.categorical))),
        "labels": (LABELS[source.task.kind], (rows,)),
    }
    for name, (dtype, shape) in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()


def _row_bytes(source: Source) -> int:
    label = np.dtype(LABELS[source.task.kind]).itemsize
    return 4 * (source.encoding.width + len(source.encoding.categorical)) + label


def _fill(arrays: Mapping[str, Array], at: int, source: Source, table: pa.Table, rows: Array) -> None:
    taken = table if len(rows) == table.num_rows else table.take(pa.array(rows))
    numeric, codes = source.encoding.encode(taken.select(source.encoding.names))
    here = slice(at, at + len(rows))
    arrays["numeric"][here], arrays["codes"][here] = numeric, codes
    arrays["labels"][here] = encoded_labels(taken, source.label, source.task)


def _arrays(folder: Path, mode: Literal["r+", "c"]) -> dict[str, Any]:
    """ "c": what is written stays in this process."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in ("numeric", "codes", "labels")}


def _mapped(folder: Path, part: str) -> Rows:
    arrays = _arrays(folder / part, "c")
    return Rows(**{name: torch.from_numpy(array) for name, array in arrays.items()})
