"""From a laptop's CPU to a GPU cluster by one parameter.

One function trains; it is called in this process, on two workers, and on a GPU. Where the cluster has no GPU the last call is
refused before anything starts, and says what there is. `python -m examples.journeys.k12_cpu_to_gpu [--home DIR] [--ray ADDRESS]`
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

import mlplat
from mlplat.errors import Refused
from mlplat.model import mlp
from mlplat.train import TrainedModel, TrainSettings

ROWS = 20_000
START = datetime(2026, 3, 1, tzinfo=UTC)
SETTINGS = TrainSettings(epochs=3, learning_rate=3e-3, batch_size=512, holdout_s=2 * 24 * 3600)


def main(home: Path, *, ray: str | None = None) -> dict[str, TrainedModel | None]:
    found: dict[str, TrainedModel | None] = {}
    with mlplat.connect(home, ray=ray) as platform:
        data = platform.features.training_set(
            "buys", visits(), [], label="buys", time="seen_at", request=["minutes", "pages", "device"]
        )
        for compute in ("cpu:0", "cpu:2", "gpu:1"):
            try:
                found[compute] = train(platform, data, compute)
            except Refused as reason:
                found[compute] = None
                print(f"{compute}: {reason}")
    return found


def train(platform: mlplat.Platform, data: mlplat.TrainingSet, compute: str) -> TrainedModel:
    """All that changes is `compute`."""
    model = platform.train(mlp((64, 32), dropout=0.1), data, compute=compute, settings=SETTINGS)
    print(f"{compute}: AUC {model.metrics['auc']:.3f} on visits it never saw, {model.seconds:.1f} s in all")
    return model


def visits() -> pl.DataFrame:
    """Visits to a shop's pages; whether they end with a purchase depends on their length."""
    random = np.random.default_rng(12)
    minutes, pages = random.gamma(2.0, 3.0, ROWS), random.poisson(4, ROWS)
    device = random.choice(["phone", "tablet", "laptop"], ROWS, p=[0.6, 0.1, 0.3])
    score = 0.35 * minutes + 0.2 * pages - 4.0 + 0.8 * (device == "laptop")
    return pl.DataFrame(
        {
            "visitor": [f"v{i % 3_000}" for i in range(ROWS)],
            "seen_at": [START + timedelta(minutes=i) for i in range(ROWS)],
            "minutes": minutes,
            "pages": pages,
            "device": device,
            "buys": (random.random(ROWS) < 1 / (1 + np.exp(-score))).astype(int),
        }
    )


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    parser.add_argument("--ray", help='a cluster to train on, such as "auto" (default: one of this machine alone)')
    args = parser.parse_args()
    main(args.home or Path(tempfile.mkdtemp(prefix="mlplat-k12-")), ray=args.ray)
