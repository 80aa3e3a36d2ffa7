"""The rows of one worker, encoded once for all epochs. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mlplat.model.architecture import Architecture
from mlplat.model.inputs import InputEncoding
from mlplat.train.gang import Gang
from mlplat.train.rows import labels_of, split, times_of
from mlplat.train.settings import TrainSettings

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every worker gets."""

    path: Path
    label: str
    time: str
    cut_us: int
    architecture: Architecture
    encoding: InputEncoding
    settings: TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """Encoded rows."""

    numeric: torch.Tensor
    codes: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.numeric[rows].to(device), self.codes[rows].to(device), self.labels[rows].to(device)


def load(work: Work, gang: Gang) -> tuple[Tensors, Tensors, int]:
    """This worker's rows encoded, those held out (rank 0 only), and how many rows all workers share."""
    with pa.memory_map(str(work.path)) as source:
        table = pa.ipc.open_file(source).read_all()
    labels = labels_of(table, work.label)
    parts = split(times_of(table, work.time), work.cut_us)
    held_out = parts.held_out if gang.rank == 0 else parts.held_out[:0]
    mine = parts.learn[gang.rank :: gang.size]
    return _tensors(work, table, labels, mine), _tensors(work, table, labels, held_out), len(parts.learn)


def _tensors(work: Work, table: pa.Table, labels: Array, rows: Array) -> Tensors:
    numeric, codes = work.encoding.encode(table.select(work.encoding.names).take(pa.array(rows)))
    target = torch.from_numpy(labels[rows].astype(np.float32))
    return Tensors(numeric=torch.from_numpy(numeric), codes=torch.from_numpy(codes), labels=target)
