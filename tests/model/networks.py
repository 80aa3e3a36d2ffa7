"""Networks outside the vocabulary, as a user writes them."""

from __future__ import annotations

import torch
from torch import nn

from mlplat.model.shape import Shape

STEPS = 2


class Gated(nn.Module):
    """Embeddings, a gate, normalisation, and a constant and a buffer that are no weights."""

    def __init__(self, shape: Shape, *, width: int = 8) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(slots, 3) for slots in shape.slots)
        self.first = nn.Linear(shape.numbers + 3 * len(shape.slots), 2 * width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(width, shape.outputs)
        self.register_buffer("slope", torch.linspace(0.5, 1.5, width), persistent=False)

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        embedded = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        value, gate = self.first(torch.cat([numeric, *embedded], dim=1)).chunk(2, dim=1)
        hidden = value * torch.sigmoid(gate) * self.slope
        hidden += torch.tensor(0.25)
        with torch.no_grad():
            scale = torch.where(hidden > 3, torch.tensor(float("inf")), hidden).amin(dim=1, keepdim=True).clamp(-1, 1)
        return self.last(self.drop(self.norm(hidden))) + 0.1 * scale


class Attending(nn.Module):
    """Each column a token; sizes are computed from the number of rows."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.lift = nn.Linear(1, 4)
        self.attend = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1)
        self.last = nn.Linear(4, shape.outputs)

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        tokens = self.attend(self.lift(numeric[:, :, None]))
        return self.last(tokens.reshape(-1, numeric.shape[1], 4).mean(dim=1))


class Linear(nn.Module):
    """The beginning of those that cannot be exported."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.linear = nn.Linear(shape.numbers, shape.outputs)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.linear(numeric)


def halved(x: torch.Tensor) -> torch.Tensor:
    return x / STEPS


class Branching(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        if self.linear.bias.sum() > 1e6:  # which torch cannot know
            return halved(self.linear(numeric))
        return -halved(self.linear(numeric))


class Counting(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.linear(numeric)


class OnlyFive(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.linear(numeric.reshape(5, -1))


class AloneOtherwise(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.linear(numeric) if numeric.shape[0] == 1 else -self.linear(numeric)


class ByCount(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.linear(numeric) if len(numeric) == 1 else -self.linear(numeric)


class Centred(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.linear(numeric - numeric.mean(dim=0, keepdim=True))


class Noisy(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.linear(numeric) + torch.rand(1)


class Flat(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.linear(numeric)[:, 0]


class Failing(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.linear(numeric[:, 1:])


def make_linear(shape: Shape) -> nn.Module:
    return Linear(shape)
