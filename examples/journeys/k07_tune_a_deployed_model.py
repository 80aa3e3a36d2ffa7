"""Optimise the learning rate of a model that is deployed.

A shop's endpoint answers with a model whose learning rate was a guess. Its record says how it was made: the search begins with
the model as it is, tries other rates, and what is better becomes a candidate. The endpoint goes on answering all the while.
`python -m examples.journeys.k07_tune_a_deployed_model [--home DIR]`
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
from mlplat.model import mlp
from mlplat.train import TrainSettings

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = TrainSettings(epochs=6, learning_rate=2e-3, batch_size=128, holdout_s=24 * 3600)


def visits(rows: int = 8_000) -> pl.DataFrame:
    random = np.random.default_rng(7)
    pages, minutes = random.poisson(6, rows), random.exponential(4, rows)
    score = (pages - 6) * 0.5 - (minutes - 4) * 0.3
    return pl.DataFrame(
        {
            "visitor": [f"v{i}" for i in range(rows)],
            "at": [START + timedelta(minutes=i) for i in range(rows)],
            "pages": pages,
            "minutes": minutes,
            "buys": (random.random(rows) < 1 / (1 + np.exp(-score))).astype(int),
        }
    )


def main(home: Path) -> None:
    with mlplat.connect(home) as platform:
        data = platform.features.training_set(
            "buys", visits(), [], label="buys", time="at", request=["pages", "minutes"]
        )
        platform.promote(platform.train(mlp((16,)), data, settings=SETTINGS))
        endpoint = platform.serve("buys")
        found = platform.tune("buys", learning_rate=space.number(1e-4, 1e-1, log=True), trials=10)
        now, best = found.trials[0], found.best
        print(f"as it is: learning rate {now.params['learning_rate']:g}, log loss {now.values[0]:.4f}")
        print(
            f"best of {len(found.trials)}: learning rate {best.params['learning_rate']:.2g}, log loss {best.values[0]:.4f}"
        )
        promotion = platform.promote(found)
        print(f"{', '.join(promotion.aliases) or 'held'}: {promotion.decision.reason}")
        answer = endpoint.predict([{"pages": 9, "minutes": 2.0}])[0]
        print(f"version {answer.version} answers, as before; version {found.version.version} is candidate")
        platform.undeploy("buys")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        main(given.home or Path(folder) / "home")
