"""Images without feature views: a convolutional network of your own on scikit-learn's digits, from pixels to answers.

`python -m examples.digits [--home DIR] [--compute cpu:2] [--serve]`
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import torch
from sklearn.datasets import load_digits
from torch import nn

import mlplat
from mlplat.train import Shape, TrainSettings

SIDE = 8
PIXELS = [f"p{i:02d}" for i in range(SIDE * SIDE)]
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


class Convolutions(nn.Module):  # type: ignore[misc]
    """Two layers of 3 x 3 filters over the image that a row's pixels are."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.filters = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(32 * (SIDE // 2) ** 2, shape.outputs))

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        images = numeric[:, : SIDE * SIDE].reshape(-1, 1, SIDE, SIDE)
        out: torch.Tensor = self.head(self.filters(images).flatten(1))
        return out


def main(home: Path, *, compute: str = "cpu:0", serve: bool = False) -> float:
    """The share of right answers on images that the model never saw."""
    images = scans()
    with mlplat.connect(home) as platform:
        data = platform.features.training_set("digits", images, [], label="digit", time="scanned_at", request=PIXELS)
        settings = TrainSettings(
            task="multiclass", epochs=12, patience=12, learning_rate=3e-3, batch_size=32, holdout_s=400 * 60
        )
        model = platform.train(Convolutions, data, compute=compute, settings=settings)
        platform.set_goal("digits", metric="accuracy", direction="max", target=0.93)
        print(platform.promote(model).decision.reason)
        if serve:
            endpoint = platform.serve("digits")
            image = images.tail(1).select(PIXELS).to_dicts()
            print(endpoint.predict(image)[0].outputs["class"], "is", images["digit"][-1])
    return model.metrics["accuracy"]


def scans() -> pl.DataFrame:
    """1,797 images of written digits, a row each, one a minute in the order of the file: later ones are by other people."""
    found = load_digits()
    return pl.DataFrame(found.data, schema=PIXELS).with_columns(
        scan=pl.Series([f"scan{i}" for i in range(len(found.target))]),
        scanned_at=pl.Series([FIRST + timedelta(minutes=i) for i in range(len(found.target))]),
        digit=pl.Series(found.target.astype("int64")),
    )


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    parser.add_argument("--compute", default="cpu:0", help='what to train on, such as "cpu:2" or "gpu:1"')
    parser.add_argument("--serve", action="store_true", help="ask an endpoint too")
    args = parser.parse_args()
    main(args.home or Path(tempfile.mkdtemp(prefix="mlplat-digits-")), compute=args.compute, serve=args.serve)
