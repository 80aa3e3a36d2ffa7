"""A training set without entities and features, for tests of what answers."""

from __future__ import annotations

import numpy as np
import polars as pl

import mlplat


def sold(platform: mlplat.Platform) -> mlplat.TrainingSet:
    """2,000 rows of one request field that tell nothing of whether a thing is sold."""
    random = np.random.default_rng(7)
    at = pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 2, 1), "20m", time_zone="UTC", eager=True)[:2_000]
    drawn = {"size": random.normal(size=2_000), "sold": (random.random(2_000) < 0.5).astype(int)}
    labels = pl.DataFrame({"at": at, **drawn})
    return platform.features.training_set("sold", labels, [], label="sold", time="at", request=["size"])
