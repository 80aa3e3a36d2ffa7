"""How was the good model of two months ago made? Find out, and make it again.

A model goes into production in May, and two retrained ones follow, which are held. In July it is asked how the good one came
about: it is found by when it was gold, its record says what it was made of, and it is made again from that record alone, to
the bit. `python -m examples.journeys.k17_rebuild_a_model [--home DIR]`
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

import mlplat
from mlplat import features as F
from mlplat.model import mlp
from mlplat.testing.clock import ManualClock
from mlplat.train import TrainSettings

MARCH, MAY = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 5, 2, tzinfo=UTC)
RIDES, RIDERS = 6_000, 150

rides = F.source("rides", key="rider", time="ended_at", id="ride_id")


@F.view(rides)
class riding:
    """How much a rider rides."""

    rides_14d = F.count(window="14d")
    mean_km_14d = F.mean("km", window="14d")


def main(home: Path) -> None:
    clock = ManualClock(MAY)
    with mlplat.connect(home, clock=clock) as platform:
        platform.features.ingest(rides, events())
        platform.features.apply(riding)
        platform.set_goal("renews", metric="auc", direction="max", target=0.7)
        for epochs in (6, 1, 2):
            retrain(platform, epochs)
            clock.advance(timedelta(days=30))

    # Two months later, in another process.
    with mlplat.connect(home, clock=clock) as platform:
        print(platform.leaderboard("renews").select("version", "auc", "reached", "gold"))
        then = MAY + timedelta(days=1)
        good = next(p for p in platform.gold_history("renews") if covers(p.since_us, p.until_us, then))
        print(f"gold on {then:%d %B}: version {good.version}; why: {good.reason}")
        print(platform.lineage(f"renews@{good.version}"))
        print(platform.reproduce(f"renews@{good.version}"))


def retrain(platform: mlplat.Platform, epochs: int) -> None:
    data = platform.features.training_set(
        "renews", labels(), [riding], label="renews", time="asked_at", request=["age"]
    )
    settings = TrainSettings(epochs=epochs, learning_rate=5e-3, batch_size=64, holdout_s=6 * 24 * 3600, seed=epochs)
    model = platform.train(mlp((32,)), data, settings=settings)
    promotion = platform.promote(model)
    said = ", ".join(promotion.aliases) or "held"
    print(f"version {promotion.version.version}: {said}; {promotion.decision.reason}")


def covers(since_us: int, until_us: int | None, then: datetime) -> bool:
    at_us = int(then.timestamp() * 1e6)
    return since_us <= at_us and (until_us is None or at_us < until_us)


def events() -> pl.DataFrame:
    random = np.random.default_rng(17)
    return pl.DataFrame(
        {
            "ride_id": range(RIDES),
            "rider": [f"r{i}" for i in random.integers(0, RIDERS, RIDES) ** 2 // RIDERS],
            "ended_at": [MARCH + timedelta(minutes=14 * i) for i in range(RIDES)],
            "km": random.gamma(2.0, 2.5, RIDES),
        }
    )


def labels() -> pl.DataFrame:
    """Who renews a pass: riders who ride much, and the younger ones."""
    random = np.random.default_rng(18)
    rider, age = random.integers(0, RIDERS, RIDES) ** 2 // RIDERS, random.integers(16, 80, RIDES)
    score = 1.5 - 0.03 * rider - 0.02 * (age - 40)
    return pl.DataFrame(
        {
            "rider": [f"r{i}" for i in rider],
            "asked_at": [MARCH + timedelta(minutes=14 * i + 7) for i in range(RIDES)],
            "age": age,
            "renews": (random.random(RIDES) < 1 / (1 + np.exp(-score))).astype(int),
        }
    )


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    args = parser.parse_args()
    main(args.home or Path(tempfile.mkdtemp(prefix="mlplat-k17-")))
