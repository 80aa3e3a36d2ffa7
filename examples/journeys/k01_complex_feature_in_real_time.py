"""A complex feature, written once and served in real time.

Is a card payment a fraud? What counts is how unusual it is: its amount beside the card's own week, the pace of the last ten
minutes, and how risky the shop is. The last is known late and gets corrected. Windows, a transform and a derived view over
both and the request make one feature; the model trains on it, and the endpoint computes it as events are pushed.
`python -m examples.journeys.k01_complex_feature_in_real_time [--home DIR]`
"""

from __future__ import annotations

import random
import tempfile
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

import mlplat
from mlplat import features as F
from mlplat.model import mlp
from mlplat.train import TrainSettings

PAYMENTS, CARDS, SHOPS = 6_000, 60, 20
START = datetime(2026, 3, 1, tzinfo=UTC)
RISKY = frozenset({"shop3", "shop7", "shop11"})

payments = F.source("payments", key="card", time="paid_at", id="payment")
reviews = F.source("reviews", key="shop", time="reviewed_at", id="review", created="entered_at")


@F.view(payments, tile="10m", owner="risk", tags=("cards",))
class spending:
    """The card's week, in steps of ten minutes."""

    mean_7d = F.mean("amount", window="7d")
    paid_7d = F.count(window="7d")


@F.view(payments, owner="risk", tags=("cards",))
class pace:
    """The last ten minutes, to the microsecond."""

    paid_10m = F.count(window="10m")


@F.view(reviews, ttl="90d", owner="risk")
class reputation:
    """How risky a shop is, from its last review. Reviews are entered late, and corrected."""

    risk: float = F.field(ge=0, le=1)

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(risk=1 - pl.col("stars") / 5)


@F.derived(spending, pace, reputation, request={"amount": float}, owner="risk")
class unusual:
    """How unusual this payment is for this card in this shop."""

    times_mean: float = F.field(ge=0)
    hurry: float = F.field(ge=0, nullable=False)
    exposure: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        times_mean = pl.col("amount") / pl.col("spending.mean_7d")
        return rows.select(
            times_mean=times_mean,
            hurry=pl.col("pace.paid_10m") / (1 + pl.col("spending.paid_7d")),
            exposure=times_mean * pl.col("reputation.risk"),
        )


def main(home: Path) -> None:
    with mlplat.connect(home) as platform:
        past = paid(PAYMENTS)
        platform.features.ingest(payments, past.drop("fraud"))
        platform.features.ingest(reviews, reviewed())
        platform.features.apply(spending, pace, reputation, unusual)
        print(f"unusual@{unusual.version} is made of {', '.join(sorted(platform.features.search('unusual')[0].reads))}")

        labels = past.select("card", "shop", "amount", "fraud", asked_at="paid_at")
        data = platform.features.training_set("fraud", labels, [unusual], label="fraud", time="asked_at", request=[])
        settings = TrainSettings(epochs=5, learning_rate=0.02, batch_size=256)
        promotion = platform.promote(platform.train(mlp((16,)), data, settings=settings), to="fraud")
        print(promotion.decision.reason)

        endpoint = platform.serve("fraud")
        now = START + timedelta(minutes=10 * PAYMENTS)
        usual, odd = [{"card": "card1", "shop": "shop3", "amount": amount} for amount in (20.0, 400.0)]
        before = endpoint.predict([usual, odd], at=now)
        for second in range(5):  # five payments in as many seconds: the next question sees them
            at = now + timedelta(seconds=second)
            platform.features.push(payments, {"payment": f"p{at}", "paid_at": at, **odd})
        after = endpoint.predict([odd], at=now + timedelta(seconds=5))
        for what, answer in (
            ("as usual", before[0]),
            ("much more", before[1]),
            ("the same after five like it", after[0]),
        ):
            print(f"  {what}: fraud with probability {answer.outputs['probability']:.2f}")

        parity = platform.parity("fraud")
        print(f"{parity.rows} predictions asked again in batch: {parity.differing} had other features online")
        platform.undeploy("fraud")


def paid(count: int) -> pl.DataFrame:
    """Payments, the same ones at every run. The larger for the card and the riskier the shop, the likelier a fraud."""
    chance = random.Random(1)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        card, shop = f"card{chance.randrange(CARDS)}", f"shop{chance.randrange(SHOPS)}"
        odd = chance.random() < 0.1
        amount = round(chance.uniform(10, 30) * (chance.uniform(5, 20) if odd else 1), 2)
        fraud = chance.random() < (0.9 if shop in RISKY else 0.3) * odd
        at = START + timedelta(minutes=10 * number)
        rows.append(
            {"payment": f"p{number}", "card": card, "shop": shop, "paid_at": at, "amount": amount, "fraud": fraud}
        )
    return pl.DataFrame(rows)


def reviewed() -> pl.DataFrame:
    """A review of each shop, entered a day late; that of a risky one was too good at first, and corrected a day later."""
    rows: list[dict[str, Any]] = []
    for number in range(SHOPS):
        shop, at = f"shop{number}", START - timedelta(days=3)
        review = {"review": f"r{number}", "shop": shop, "reviewed_at": at}
        rows.append({**review, "stars": 4.5, "entered_at": at + timedelta(days=1)})
        if shop in RISKY:
            rows.append({**review, "stars": 1.0, "entered_at": at + timedelta(days=2)})
    return pl.DataFrame(rows)


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m examples.journeys.k01_complex_feature_in_real_time", description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    main(parser.parse_args().home or Path(tempfile.mkdtemp(prefix="mlplat-k01-")))
