"""Scored at night in batch, and the same model online in the morning.

At two in the morning every customer is scored for the day, from files to files, as of that moment. In the morning the same
version is served: it is asked about the same customers as of 2 a.m. and gives the same answers, and as of now it knows what
they did since. `python -m examples.journeys.k13_nightly_batch_then_online [--home DIR]`
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

ORDERS, CUSTOMERS = 8_000, 400
START = datetime(2026, 3, 1, tzinfo=UTC)
NIGHT = datetime(2026, 4, 26, 2, tzinfo=UTC)

orders = F.source("orders", key="customer", time="ordered_at", id="order")


@F.view(orders)
class buying:
    """How a customer has been buying."""

    orders_7d = F.count(window="7d")
    mean_spend_7d = F.mean("spend", window="7d")


def main(home: Path) -> None:
    clock, lake = ManualClock(NIGHT), home.with_name(f"{home.name}-lake")
    with mlplat.connect(home, clock=clock) as platform:
        platform.features.ingest(orders, ordered())
        platform.features.apply(buying)
        data = platform.features.training_set(
            "returns", labels(), [buying], label="returns", time="asked_at", request=["plan", "age"]
        )
        settings = TrainSettings(epochs=4, learning_rate=1e-2, batch_size=128)
        promotion = platform.promote(platform.train(mlp((16,)), data, settings=settings))
        print(promotion.decision.reason)
        lake.mkdir()
        customers().write_parquet(lake / "customers.parquet")

    # Two in the morning: a job of its own, as cron would start it.
    with mlplat.connect(home, clock=clock) as platform:
        scores = platform.predict("returns", lake / "customers.parquet", to=lake / "scores")
        again = platform.predict("returns", lake / "customers.parquet", to=lake / "scores")
        print(f"{scores.rows} customers scored at {NIGHT:%H:%M} by version {scores.version}; again: {again.rows}")
        night = pl.read_parquet(lake / "scores" / "*.parquet")
        print(f"the folder holds {night.height} rows, {night['customer'].n_unique()} customers")

    # Nine in the morning: the same model online.
    morning = NIGHT + timedelta(hours=7)
    clock.advance(timedelta(hours=7))
    with mlplat.connect(home, clock=clock) as platform:
        endpoint = platform.serve("returns")
        online = endpoint.predict(night.select("customer", "plan", "age").to_dicts(), at=NIGHT)
        gaps = [abs(p.outputs["probability"] - told) for p, told in zip(online, night["probability"], strict=True)]
        same = {(p.version, p.digest) for p in online} == {(night["model_version"][0], night["model_digest"][0])}
        print(f"the same model: {same}; of {len(gaps)} answers online, {sum(gap > 1e-6 for gap in gaps)} differ")

        one = night.row(-1, named=True)
        for minute in range(5):
            at = NIGHT + timedelta(hours=6, minutes=minute)
            platform.features.push(
                orders, {"order": f"new{minute}", "customer": one["customer"], "ordered_at": at, "spend": 90.0}
            )
        asked = {name: one[name] for name in ("customer", "plan", "age")}
        (now,) = endpoint.predict([asked], at=morning)
        print(
            f"{one['customer']} at night: {one['probability']:.3f}, and after five more orders: {now.outputs['probability']:.3f}"
        )
        platform.undeploy("returns")


def ordered() -> pl.DataFrame:
    random = np.random.default_rng(13)
    return pl.DataFrame(
        {
            "order": [f"o{i}" for i in range(ORDERS)],
            "customer": [f"c{i}" for i in random.integers(0, CUSTOMERS, ORDERS) ** 2 // CUSTOMERS],
            "ordered_at": [START + timedelta(minutes=10 * i) for i in range(ORDERS)],
            "spend": random.gamma(2.0, 15.0, ORDERS),
        }
    )


def labels() -> pl.DataFrame:
    """Who returns within a week: those who buy much, and the older ones."""
    random = np.random.default_rng(14)
    number, age = random.integers(0, CUSTOMERS, ORDERS) ** 2 // CUSTOMERS, random.integers(18, 90, ORDERS)
    plan = random.choice(["free", "paid"], ORDERS)
    score = 1.0 - 0.012 * number + 0.03 * (age - 50) + 0.8 * (plan == "paid")
    return pl.DataFrame(
        {
            "customer": [f"c{i}" for i in number],
            "asked_at": [START + timedelta(minutes=10 * i + 5) for i in range(ORDERS)],
            "plan": plan,
            "age": age,
            "returns": (random.random(ORDERS) < 1 / (1 + np.exp(-score))).astype(int),
        }
    )


def customers() -> pl.DataFrame:
    """Everybody, with what the model is asked with, and a column that it does not know."""
    random = np.random.default_rng(15)
    return pl.DataFrame(
        {
            "customer": [f"c{i}" for i in range(CUSTOMERS)],
            "plan": random.choice(["free", "paid"], CUSTOMERS),
            "age": random.integers(18, 90, CUSTOMERS),
            "email": [f"c{i}@example.com" for i in range(CUSTOMERS)],
        }
    )


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    args = parser.parse_args()
    main(args.home or Path(tempfile.mkdtemp(prefix="mlplat-k13-")))
