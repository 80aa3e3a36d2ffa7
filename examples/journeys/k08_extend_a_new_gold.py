"""Gradually extend a new gold model to the whole population, by evidence, and take it back.

A shop predicts who buys. Since spring people buy otherwise than they did, and what was served tells it: a new model learns from
the answers and what came of them. It gets 1 % of the visitors, then 10 %, then half; then it is gold. At each step a loop beside
the traffic decides, from what really happened. At the end somebody takes it back by hand.
`python -m examples.journeys.k08_extend_a_new_gold [--home DIR]`
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import mlplat
from mlplat import features as F
from mlplat.model import mlp
from mlplat.serve.endpoint import Endpoint
from mlplat.train import TrainSettings

WINTER, SPRING = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
SETTINGS = TrainSettings(epochs=6, learning_rate=2e-2, batch_size=128, holdout_s=24 * 3600)
AT_ONCE, AT_MOST = 1_000, 120

visits = F.source("visits", key="visitor", time="seen_at")


@F.view(visits, owner="shop")
class interest:
    """How often a visitor came."""

    visits_30d = F.count(window="30d")


class Visitors:
    """Who comes, the same ones at every run. In winter those buy who look at many pages, and in spring those who look at few."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(8)
        self._number = 0

    def come(self, count: int, since: datetime) -> tuple[list[dict[str, Any]], list[int]]:
        """As many, one a minute; and which of them buy."""
        pages = self._random.poisson(6, count)
        score = (pages - 6) if since < SPRING else (6 - pages)
        buys = (self._random.random(count) < 1 / (1 + np.exp(-score))).astype(int)
        asked = [
            {"visitor": f"v{self._number + i}", "pages": int(pages[i]), "at": since + timedelta(minutes=i)}
            for i in range(count)
        ]
        self._number += count
        return asked, buys.tolist()


def main(home: Path) -> None:
    visitors = Visitors()
    with mlplat.connect(home) as platform:
        asked, buys = visitors.come(4_000, WINTER)
        history = pl.DataFrame(asked).with_columns(buys=pl.Series(buys))
        platform.features.ingest(visits, history.select("visitor", "pages", seen_at="at"))
        platform.features.apply(interest)
        data = platform.features.training_set("buys", history, [interest], label="buys", time="at", request=["pages"])
        platform.promote(platform.train(mlp((8,)), data, settings=SETTINGS))
        endpoint = platform.serve("buys")
        print(f"spring: version {platform.gold('buys').version} answers, and is wrong about it")
        for day in range(4):
            serve(platform, endpoint, visitors, SPRING + timedelta(days=day))

        labels = platform.labels("buys")
        data = platform.features.training_set("buys", labels, [interest], label="buys", time="at", request=["pages"])
        challenger = platform.train(mlp((8,)), data, settings=SETTINGS)
        print(f"version {challenger.version.version} learnt from {data.rows:,} answers and what came of them")
        print(f"  {platform.promote(challenger).decision.reason}")

        platform.experiment("buys", challenger, share=0.01)
        gold, served = platform.gold("buys"), 0
        with platform.advancing("buys", every="1s", say=print):
            while platform.gold("buys") == gold and served < AT_MOST:
                serve(platform, endpoint, visitors, SPRING + timedelta(days=7))
                served += 1
        print(f"after {served * AT_ONCE:,} visitors version {platform.gold('buys').version} is gold")
        print(platform.arms("buys").select("arm", "version", "share"))

        platform.rollback("buys", who="ann", why="the shop wants to see it first")
        print(f"version {endpoint.predict([{'visitor': 'v1', 'pages': 3}])[0].version} answers again")
        for period in platform.gold_history("buys"):
            print(f"  version {period.version} was gold: {period.reason}")
        platform.undeploy("buys")


def serve(platform: mlplat.Platform, endpoint: Endpoint, visitors: Visitors, since: datetime) -> None:
    """Ask about visitors, and tell what came of it."""
    asked, buys = visitors.come(AT_ONCE, since)
    answers = endpoint.predict([{**row, "at": row["at"].isoformat()} for row in asked])
    platform.outcome("buys", {"prediction_id": [answer.id for answer in answers], "value": buys})


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m examples.journeys.k08_extend_a_new_gold", description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    main(parser.parse_args().home or Path(tempfile.mkdtemp(prefix="mlplat-k08-")))
