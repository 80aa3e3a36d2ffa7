"""Change the producer of feature information, with no effect on transform and serving logic.

`python -m examples.journeys.k03_replace_producer [--home DIR]`. The machines of a plant report through an old collector, and a
gateway shall take its place. Its first version reports in Fahrenheit and is held; its second is like what was there and takes
over. The view, the model and the endpoint stay as they are.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

import mlplat
from mlplat import features as F
from mlplat.errors import Refused
from mlplat.model import mlp
from mlplat.train import TrainSettings

START = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = timedelta(minutes=6)
MACHINES = 50

readings = F.source("readings", key="machine", time="read_at", id="reading_id", owner="plant")


@F.view(readings, owner="ml")
class recent:
    """The last day of a machine."""

    mean_temperature_1d = F.mean("temperature", window="1d")
    max_vibration_1d = F.max("vibration", window="1d")


def reported(first: int, count: int) -> pl.DataFrame:
    """What happened in the plant, whoever reports it: reading number `first` and those after it."""
    random = np.random.default_rng(first)
    machine = random.integers(0, MACHINES, count)
    wear = np.random.default_rng(0).uniform(0, 1, MACHINES)[machine]
    return pl.DataFrame(
        {
            "reading_id": [f"r{number}" for number in range(first, first + count)],
            "machine": [f"m{number:02d}" for number in machine],
            "read_at": [START + EVERY * number for number in range(first, first + count)],
            "temperature": 60 + 25 * wear + random.normal(0, 4, count),
            "vibration": 1 + 2 * wear + random.normal(0, 0.4, count),
        }
    )


def labelled(events: pl.DataFrame) -> pl.DataFrame:
    """Machines, when we asked, and whether they failed later."""
    asked = events.filter(pl.col("read_at") > START + timedelta(days=3))
    fails = asked["temperature"] + np.random.default_rng(1).normal(0, 6, asked.height) > 82
    return asked.select("machine", asked_at="read_at", fails=fails.cast(pl.Int64))


def main(home: Path) -> None:
    with mlplat.connect(home) as platform:
        features = platform.features
        history, newer = reported(0, 12_000), reported(12_000, 3_000)
        features.ingest(readings, history, producer="collector")
        features.apply(recent)
        data = features.training_set("fails", labelled(history), [recent], label="fails", time="asked_at")
        settings = TrainSettings(epochs=4, batch_size=256, learning_rate=1e-2, holdout_s=5 * 24 * 3600)
        print(platform.promote(platform.train(mlp((16,)), data, settings=settings)).decision.reason)
        endpoint = platform.serve("fails")
        version, digest = features.view("recent").version, platform.gold("fails").digest
        then, now = (events["read_at"][-1] + EVERY for events in (history, newer))
        machines = [{"machine": f"m{number:02d}"} for number in range(MACHINES)]
        before = [answer.outputs["probability"] for answer in endpoint.predict(machines, at=then)]
        print(features.describe(readings))

        print("\nthe gateway, first version:")
        wrong = newer.with_columns(temperature=pl.col("temperature") * 9 / 5 + 32)
        held = features.replace_producer(readings, wrong, producer="gateway")
        print(f"  {'taken' if held.accepted else 'held'}: {held.decision.reason}")
        refused(lambda: features.ingest(readings, wrong, producer="gateway"))

        print("the gateway, second version:")
        taken = features.replace_producer(readings, newer, producer="gateway")
        print(f"  {'taken' if taken.accepted else 'held'}: {taken.decision.reason}")
        print(f"  {features.ingest(readings, newer, producer='gateway').added:,} of its events added")
        refused(lambda: features.ingest(readings, reported(15_000, 10), producer="collector"))

        print("its consumers:")
        answers = endpoint.predict(machines, at=now)
        after = [answer.outputs["probability"] for answer in answers]
        checks = {
            "the view has the same version": features.view("recent").version == version,
            "the model that answers is the same, to the byte": {answer.digest for answer in answers} == {digest},
            "what was known before is what it was": near(before, in_batch(platform, machines, then)),
            "the answers of now stand on the gateway's events": near(after, in_batch(platform, machines, now))
            and not near(after, before),
        }
        for said, holds in checks.items():
            print(f"  {'yes' if holds else 'NO'}: {said}")
        for change in features.producers(readings):
            print(f"  {change.producer}: {'taken' if change.accepted else 'held'}, {change.decision.reason[:90]}")
        platform.undeploy("fails")
        assert all(checks.values())
        assert not held.accepted
        assert taken.accepted


def in_batch(platform: mlplat.Platform, machines: list[dict[str, str]], at: datetime) -> list[float]:
    """The model's answers from the tables, as they were known at a moment."""
    asked = pl.DataFrame(machines).with_columns(asked_at=pl.lit(at))
    return platform.predict("fails", asked, time="asked_at")["probability"].to_list()


def near(ours: list[float], theirs: list[float]) -> bool:
    return bool(np.max(np.abs(np.array(ours) - np.array(theirs))) < 1e-6)


def refused(step: Callable[[], object]) -> None:
    """It must be."""
    try:
        step()
    except Refused as error:
        print(f"  refused: {error}")
    else:
        raise AssertionError("this had to be refused")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="a new folder (default: a temporary one)")
    main(parser.parse_args().home or Path(tempfile.mkdtemp(prefix="mlplat-k03-")))
