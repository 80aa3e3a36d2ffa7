"""The flights network as somebody writes it who has torch alone."""

from __future__ import annotations

import torch
from torch import nn


class Flights(nn.Module):  # type: ignore[misc]
    def __init__(self, numbers: int) -> None:
        super().__init__()
        layers = [nn.Linear(numbers, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(64, 1)

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(numeric))
        return out
