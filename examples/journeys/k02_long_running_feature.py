"""A feature that takes long to compute, made once and used by two models.

Messages to a support desk are read by slow code. The backfill runs on a pool of actors in the background: it is watched,
cancelled, and goes on where it stopped. Then two models, `escalates` and `leaves`, share the one version, offline and
online. `python -m examples.journeys.k02_long_running_feature [--home DIR]`
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

import mlplat
from mlplat import features as F
from mlplat.model import mlp
from mlplat.train import TrainSettings

MESSAGES, CUSTOMERS = 8_000, 200
START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(minutes=10 * MESSAGES)
WORDS = ("please", "thanks", "invoice", "broken", "again", "refund", "cancel", "waiting", "great", "login")
HARSH = frozenset({"broken", "again", "refund", "cancel", "waiting"})

messages = F.source("messages", key="customer", time="sent_at", id="message_id")


@F.view(messages, ttl="30d", actors=(1, 2), timeout="5m", owner="support", tags=("text",))
class tone:
    """What a customer's latest message sounds like, read by code that takes its time."""

    harshness: float = F.field(ge=0, le=1)
    length: int
    topic: int

    def __init__(self) -> None:
        """Once per actor: where a language model would be loaded."""
        self.weights = {word: 1.0 if word in HARSH else 0.0 for word in WORDS}

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame(
            [self.read(text) for text in rows["text"]],
            schema={"harshness": pl.Float64, "length": pl.Int64, "topic": pl.Int64},
            orient="row",
        )

    def read(self, text: str) -> tuple[float, int, int]:
        words = text.split()
        topic = text.encode()
        for _ in range(300):  # the slow part
            topic = hashlib.blake2b(topic, digest_size=8).digest()
        return sum(self.weights[word] for word in words) / len(words), len(words), topic[0] % 8


def main(home: Path) -> None:
    with mlplat.connect(home) as platform:
        added = platform.features.ingest(messages, written()).added
        print(f"{added:,} messages of {CUSTOMERS} customers")

        backfill = platform.features.backfill(tone)
        print(f"backfill {backfill.id} began: {backfill.status().state}")
        backfill.cancel()
        status = backfill.wait(timeout_s=120)
        print(f"stopped: {status.state} at {status.done:,} of {status.total:,} rows")

        backfill = platform.features.operation(backfill.id).resume()  # here, or in any process that opens the home
        while not (status := backfill.wait(timeout_s=2)).ended:
            print(f"  {status.phase}: {status.done:,} of {status.total:,} rows, {status.left_s or 0:.0f} s left")
        backfill.result()
        print(f"went on, and is {backfill.status().state}: {tone.name}@{tone.version} is the current version")

        for name in ("escalates", "leaves"):
            labels = labelled(name)
            data = platform.features.training_set(name, labels, [tone], label=name, time="asked_at")
            model = platform.train(
                mlp((16,)), data, settings=TrainSettings(epochs=4, learning_rate=0.02, batch_size=256)
            )
            print(f"model {name}: pinned to {data.features[0].view}@{data.features[0].version}")
            print(f"  {platform.promote(model, to=name).decision.reason}")
        users = platform.features.users(tone)
        print(f"users of tone: {users}")

        event = {"customer": "c7", "sent_at": END, "message_id": "new", "text": "cancel again refund waiting"}
        platform.features.push(messages, event)
        now = END + timedelta(minutes=1)
        online = platform.features.online(tone, {"customer": ["c7"]}, at=now).to_arrow().to_pylist()[0]
        asked = pl.DataFrame({"customer": ["c7"], "asked_at": [now]})
        offline = platform.features.join(asked, [tone], time="asked_at").to_dicts()[0]
        same = all(online[field.name] == offline[f"tone.{field.name}"] for field in tone.fields)
        print(
            f"a new message, harshness {online['harshness']:.2f}: online and offline are {'the same' if same else 'NOT THE SAME'}"
        )
        for name in ("escalates", "leaves"):
            found = platform.predict(name, asked, time="asked_at")["probability"][0]
            print(f"  {name}: {found:.2f}")


def written() -> pl.DataFrame:
    """The messages, the same at every run."""
    choose = random.Random(2)
    return pl.DataFrame(
        {
            "customer": [f"c{choose.randrange(CUSTOMERS)}" for _ in range(MESSAGES)],
            "sent_at": [START + timedelta(minutes=10 * i) for i in range(MESSAGES)],
            "message_id": [f"m{i}" for i in range(MESSAGES)],
            "text": [" ".join(choose.choices(WORDS, k=choose.randint(3, 12))) for _ in range(MESSAGES)],
        }
    )


def labelled(name: str) -> pl.DataFrame:
    """Ten minutes after each message: did the customer escalate, or leave? The harsher, the likelier."""
    chance = random.Random(name)
    rates = {"escalates": 0.9, "leaves": 0.5}
    asked = written()
    harsh = [sum(word in HARSH for word in text.split()) / len(text.split()) for text in asked["text"]]
    return asked.select(
        "customer",
        asked_at=pl.col("sent_at") + timedelta(minutes=9),
        **{name: pl.Series([chance.random() < rates[name] * h for h in harsh])},
    )


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m examples.journeys.k02_long_running_feature", description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    main(parser.parse_args().home or Path(tempfile.mkdtemp(prefix="mlplat-k02-")))
