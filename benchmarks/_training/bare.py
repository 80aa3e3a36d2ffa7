"""The same step written by hand: tensors in memory, torch's own DDP, nothing else. Also a script for torchrun."""

from __future__ import annotations

import copy
import json
import sys
from time import perf_counter

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlplat.train.encoded import Rows

BATCH, NUMBERS, ROWS = 1_024, 30, 100_000


class Loop:
    """Steps of `batch` rows of this worker, in an order drawn anew for each pass."""

    def __init__(self, module: nn.Module, rows: Rows, *, batch: int, rate: float) -> None:
        self._numeric, self._codes = rows.numeric.clone(), rows.codes.clone().long()
        self._labels, self._batch = rows.labels.clone(), batch
        self._module = copy.deepcopy(module)
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._module = DistributedDataParallel(self._module)
        self._optimizer = torch.optim.AdamW(self._module.parameters(), lr=rate, weight_decay=1e-4, fused=True)
        self._order, self._at = torch.randperm(len(self._labels)), 0

    def steps(self, count: int) -> None:
        self._module.train()
        for _ in range(count):
            if self._at + self._batch > len(self._order):
                self._order, self._at = torch.randperm(len(self._labels)), 0
            rows = self._order[self._at : self._at + self._batch]
            self._at += self._batch
            raw = self._module(self._numeric[rows], self._codes[rows])
            loss = nn.functional.binary_cross_entropy_with_logits(raw[:, 0], self._labels[rows])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()


def main() -> None:
    """Of torchrun: milliseconds of a step of two workers, as JSON from rank 0."""
    from mlplat.model import InputEncoding, mlp
    from mlplat.model.build import build
    from mlplat.model.inputs import NumericInput

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    columns = [
        NumericInput(name=f"x{i}", dtype="float64", mean=0.0, scale=1.0, indicator=False) for i in range(NUMBERS)
    ]
    module = build(mlp((128, 64), dropout=0.1), InputEncoding(numeric=tuple(columns), categorical=()))
    rows = Rows(
        numeric=torch.randn(ROWS, NUMBERS),
        codes=torch.zeros(ROWS, 0, dtype=torch.int32),
        labels=(torch.rand(ROWS) < 0.5).float(),
    )
    loop = Loop(module, rows, batch=BATCH // dist.get_world_size(), rate=1e-3)
    blocks, each = int(sys.argv[1]), int(sys.argv[2])
    taken = []
    loop.steps(each)
    for _ in range(blocks):
        dist.barrier()
        began = perf_counter()
        loop.steps(each)
        taken.append((perf_counter() - began) / each)
    if dist.get_rank() == 0:
        print(json.dumps(1e3 * sorted(taken)[len(taken) // 2]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
