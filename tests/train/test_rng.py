"""Random states go into bytes and come back."""

from __future__ import annotations

import random

import numpy as np
import torch

from mlplat.train import rng

CPU = torch.device("cpu")


def draw() -> list[float]:
    return [*torch.rand(2).tolist(), torch.nn.functional.dropout(torch.ones(9)).sum().item(), random.gauss(0, 1),
            *np.random.normal(size=3).tolist()]  # fmt: skip


def test_what_is_drawn_after_a_restore_is_what_was_drawn() -> None:
    with rng.left_alone(CPU, threads=1):
        for odd in (0, 1):  # both keep every second normal number for the next call
            rng.seed(3)
            for _ in range(odd):
                draw()
            state = rng.capture(CPU)
            expected = draw()
            draw()
            rng.restore(state, CPU)
            assert draw() == expected


def test_all_states_have_one_length() -> None:
    with rng.left_alone(CPU, threads=1):
        lengths = set()
        for number in range(3):
            rng.seed(number)
            random.gauss(0, 1)
            lengths.add(len(rng.capture(CPU)))
    assert len(lengths) == 1
