"""The chained search on a year of flights, against the network that was written by hand."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic
from typing import Any

import numpy as np
import polars as pl

import mlplat
from benchmarks._figures import Figures, Scene
from examples.flights import data, features
from examples.flights.__main__ import ingest
from mlplat import space
from mlplat.model import mlp, vocabulary
from mlplat.train import TrainSettings
from mlplat.train.judged import losses, predictions
from mlplat.train.rows import encoded_labels
from mlplat.train.search import Rungs

BY_HAND = mlp((128, 64), dropout=0.1)
WIDTH = space.choice(64, 128, 256, name="width")
BLOCK = [
    vocabulary.dense(WIDTH),
    space.choice(none=[], layer=[vocabulary.norm("layer")], batch=[vocabulary.norm("batch")], name="norm"),
    vocabulary.activation(space.choice("relu", "silu", name="activation")),
    vocabulary.dropout(space.choice(0.0, 0.1, 0.2, 0.3, name="dropout")),
]
NETWORKS = vocabulary.network(
    *BLOCK,
    space.repeat(vocabulary.connection(*BLOCK, name="connection"), space.integer(0, 3)),
    embedding_max=space.choice(8, 16, 32),
    dropout=space.choice(0.0, 0.1),
)
RATES = {
    "learning_rate": space.number(2e-4, 1e-2, log=True),
    "weight_decay": space.number(1e-5, 1e-1, log=True),
    "batch_size": space.choice(256, 512, 1024),
}


def chained(scene: Scene) -> Figures:
    """Both learn from January to June and are selected by July and August; the difference of their losses on the flights of
    September to December, resampled by day: the upper end of its 95% interval."""
    days = data.QUICK if scene.quick else data.YEAR
    held_out = days.holdout if scene.quick else timedelta(days=62)
    trials, epochs = (2, 1) if scene.quick else (36, 24), scene.size(2, 1)
    settings = TrainSettings(epochs=scene.size(8, 1), batch_size=1024, holdout_s=held_out.total_seconds())
    with mlplat.connect(scene.folder / "home") as platform:
        flights = data.load().between(days.start, days.end)
        ingest(platform, flights)
        platform.features.apply(*features.views)
        known = flights.between(days.start, days.live)
        labels = known.schedule.drop_nulls("late").join(known.arrivals, on="flight_id", how="semi")
        training = platform.features.training_set(
            "late", labels, features.views, label="late", time="scheduled_at", request=features.request
        )
        by_hand = platform.train(BY_HAND, training, settings=settings)
        began = monotonic()
        found = platform.discover(
            NETWORKS,
            RATES,
            training,
            trials=trials,
            top=3,
            epochs=epochs,
            settings=settings,
            rungs=Rungs(first=1, factor=3),
        )
        took = monotonic() - began
        unseen = flights.between(days.live, days.end).schedule.drop_nulls("late").sort("scheduled_at", "flight_id")
        apart = _losses(platform, found.version, unseen) - _losses(platform, by_hand, unseen)
    by_day = unseen.select(day=pl.col("scheduled_at").dt.date(), apart=pl.Series(apart)).group_by(
        "day", maintain_order=True
    )
    high = _upper(by_day.agg(pl.col("apart")).get_column("apart").to_list())
    hand, ours = by_hand.metrics["log_loss"], found.model.metrics["log_loss"]
    seen = f"July and August {ours:.4f}, by hand {hand:.4f}; then {apart.mean():+.4f} on average"
    note = f"{seen}; searched for {took:.0f} s; {found.best.params}"
    return Figures(ours=high, note=note)


def _losses(platform: mlplat.Platform, model: Any, rows: pl.DataFrame) -> np.ndarray:
    loaded = platform.load(model)
    joined = platform.features.join(rows, loaded.signature.features, time="scheduled_at").sort(
        "scheduled_at", "flight_id"
    )
    table = joined.to_arrow(compat_level=pl.CompatLevel.oldest())
    answers = loaded.predict(table)
    truth = encoded_labels(table, "late", loaded.task)
    return losses(loaded.task, truth, predictions(loaded.task, answers))


def _upper(days: list[list[float]]) -> float:
    """By a bootstrap over days: flights of one day are alike."""
    sums, sizes = np.array([sum(day) for day in days]), np.array([len(day) for day in days], dtype=float)
    drawn = np.random.default_rng(0).integers(0, len(days), size=(4_000, len(days)))
    return float(np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), 0.975))
