"""Discover a new, better architecture for a network that is in production.

A wind farm predicts whether a turbine must be stopped within the hour. Its network is a small one that somebody wrote by hand. A
search of architectures at a low fidelity hands the best of them to a search of their settings; the promoter compares what comes
of it with the model in production, on rows that neither has seen. `python -m examples.journeys.k06_discover_an_architecture
[--home DIR]`
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

import mlplat
from mlplat import space
from mlplat.model import mlp, vocabulary
from mlplat.train import TrainSettings
from mlplat.train.search import Rungs

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = TrainSettings(epochs=8, patience=3, learning_rate=1e-3, batch_size=128, holdout_s=48 * 3600)
WIDTH = space.choice(16, 32, 64, name="width")
BLOCK = [vocabulary.dense(WIDTH), vocabulary.activation(space.choice("relu", "silu", "tanh", name="activation"))]
NETWORKS = vocabulary.network(
    *BLOCK,
    space.repeat(vocabulary.connection(*BLOCK), space.integer(0, 3)),
    space.choice(none=[], norm=[vocabulary.norm("layer")], name="norm"),
)
SETTINGS_TOO = {
    "learning_rate": space.number(3e-4, 3e-2, log=True),
    "weight_decay": space.number(1e-5, 1e-2, log=True),
}


def turbines(rows: int = 12_000) -> pl.DataFrame:
    """A measurement a minute, and whether the turbine had to be stopped: wind and temperature act together, in waves."""
    random = np.random.default_rng(6)
    wind, heat, age = random.normal(size=rows), random.normal(size=rows), random.random(rows)
    score = 3 * np.sin(2 * wind) * heat + age - 0.5
    return pl.DataFrame(
        {
            "turbine": [f"t{i % 40}" for i in range(rows)],
            "at": [START + timedelta(minutes=i) for i in range(rows)],
            "wind": wind,
            "heat": heat,
            "age": age,
            "stopped": (random.random(rows) < 1 / (1 + np.exp(-score))).astype(int),
        }
    )


def main(home: Path, compute: str = "cpu:0") -> None:
    with mlplat.connect(home) as platform:
        data = platform.features.training_set(
            "stopped", turbines(), [], label="stopped", time="at", request=["wind", "heat", "age"]
        )
        by_hand = platform.train(mlp((8,)), data, settings=SETTINGS)
        platform.promote(by_hand)
        print(f"in production: version {by_hand.version.version}, log loss {by_hand.metrics['log_loss']:.4f}")

        found = platform.discover(
            NETWORKS,
            SETTINGS_TOO,
            data,
            trials=(16, 10),
            top=3,
            epochs=4,
            settings=SETTINGS,
            compute=compute,
            rungs=Rungs(first=2, factor=3),
            limits={"parameters": 50_000},
        )
        first = platform.leaderboard_of("stopped-architectures")
        print(f"architectures: {first.height} tried, {first.filter(state='stopped').height} given up early")
        best = found.model
        network = platform.lineage(best.version).science["network"]
        print(f"found: version {best.version.version}, log loss {best.metrics['log_loss']:.4f}, {network}")
        promotion = platform.promote(found)
        print(f"{', '.join(promotion.aliases) or 'held'}: {promotion.decision.reason}")
        print(f"in production is still version {platform.gold('stopped').version}: an experiment comes next")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--compute", default="cpu:0")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        main(given.home or Path(folder) / "home", given.compute)
