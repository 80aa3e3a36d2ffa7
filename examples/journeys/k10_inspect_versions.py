"""Which version of a model is in production, of which versions of its features, and what must a caller send?

A view changes once, so that two models stand on two versions of it. Everything that can be asked of models, features and
signatures is asked here, each with one call. `python -m examples.journeys.k10_inspect_versions [--home DIR]`
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
from mlplat.features import View
from mlplat.model import mlp
from mlplat.train import TrainSettings

START, HOURS, PLANTS = datetime(2026, 3, 1, tzinfo=UTC), 4_000, 8
SETTINGS = TrainSettings(epochs=3, learning_rate=5e-3, batch_size=64, holdout_s=20 * 24 * 3600)

readings = F.source("readings", key="plant", time="read_at")


def load_of(*windows: str) -> View:
    """How much power a plant drew, over some windows."""
    features = {f"mean_load_{window}": F.mean("load", window=window) for window in windows}
    return F.view(readings, owner="grid")(type("load", (), features))


def main(home: Path) -> None:
    with mlplat.connect(home) as platform:
        platform.features.ingest(readings, history())
        for windows in (("6h",), ("6h", "24h")):
            load = load_of(*windows)
            platform.features.apply(load)
            data = platform.features.training_set(
                "peaks", labels(), [load], label="peaks", time="asked_at", request=["forecast", "season"]
            )
            platform.promote(platform.train(mlp((16,)), data, settings=SETTINGS))

        print("models     ", platform.leaderboard("peaks").select("version", "auc", "gold", "candidate"))
        print("in use     ", platform.gold("peaks"))
        print("gold       ", platform.gold_history("peaks"))
        for version in platform.metadata.versions("peaks"):
            signature = platform.load(version).signature
            print(f"peaks@{version.version} reads", *(f"{ref.view}@{ref.version}" for ref in signature.features))
            print("  a caller sends", *(f"{f.name}: {f.dtype}" for f in (*signature.entities, *signature.request)))
            print("  and gets", *(f"{f.name}: {f.dtype}" for f in signature.outputs))
        for known in platform.features.history("load"):
            names = ", ".join(f.name for f in known.view.fields)
            print(f"load@{known.version}: {names}; used by {platform.features.users('load', version=known.version)}")


def history() -> pl.DataFrame:
    random = np.random.default_rng(10)
    hours = np.tile(np.arange(HOURS), PLANTS)
    plant = np.repeat(np.arange(PLANTS), HOURS)
    load = 50 + 20 * np.sin(hours / 40 + plant) + random.normal(0, 5, HOURS * PLANTS)
    at = [START + timedelta(hours=int(h)) for h in hours]
    return pl.DataFrame({"plant": [f"p{i}" for i in plant], "read_at": at, "load": load})


def labels() -> pl.DataFrame:
    """Whether a plant's load peaks in the next hour."""
    rows = history().gather_every(3).with_columns(asked_at=pl.col("read_at") + pl.duration(minutes=1))
    random = np.random.default_rng(11)
    return rows.select(
        "plant",
        "asked_at",
        forecast=pl.col("load") + pl.Series(random.normal(0, 10, rows.height)),
        season=pl.when(pl.col("asked_at").dt.month() < 6).then(pl.lit("spring")).otherwise(pl.lit("summer")),
        peaks=(pl.col("load") > 62).cast(pl.Int64),
    )


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    args = parser.parse_args()
    main(args.home or Path(tempfile.mkdtemp(prefix="mlplat-k10-")))
