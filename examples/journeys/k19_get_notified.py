"""Get notified that a training finished or failed.

`python -m examples.journeys.k19_get_notified [--home DIR]`. A plant trains at night whether a pump will fail, and its people want
to read in the morning how it went. A server of this script stands for Slack: with `Slack("https://hooks.slack.com/...")` the rest
stays as it is. One training finishes, one diverges because its learning rate is wild, one is asked to stop; and when the channel
cannot be reached, the training ends well all the same.
"""

from __future__ import annotations

import json
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import polars as pl

import mlplat
from mlplat import features as F
from mlplat.errors import InvalidInput
from mlplat.model import mlp
from mlplat.notify import Slack
from mlplat.train import TrainSettings

EVENTS = 4_000
SETTINGS = TrainSettings(epochs=3, batch_size=256, learning_rate=1e-2, holdout_s=5 * 24 * 3600)
WILD = TrainSettings(epochs=3, batch_size=256, learning_rate=1e35, holdout_s=5 * 24 * 3600)

readings = F.source("readings", key="pump", time="read_at", id="number", owner="plant")


@F.view(readings, owner="ml")
class recent:
    """The last day of a pump."""

    mean_heat_1d = F.mean("heat", window="1d")


def reported() -> pl.DataFrame:
    """A reading every six minutes, of one pump after the other."""
    heat = np.random.default_rng(0).normal(70, 10, EVENTS) + 15 * (np.arange(EVENTS) % 20 > 12)
    return pl.DataFrame({"number": range(EVENTS), "heat": heat}).with_columns(
        pump=pl.format("p{}", pl.col("number") % 20),
        read_at=pl.datetime(2026, 1, 1, time_zone="UTC") + pl.duration(minutes=6 * pl.col("number")),
    )


@contextmanager
def channel() -> Iterator[tuple[str, list[str]]]:
    """What stands for Slack: the URL of its webhook, and the texts that it was sent."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/services/T0/B0/secret", texts
        finally:
            server.shutdown()


def main(home: Path) -> None:
    events = reported()
    labels = events.select("pump", asked_at="read_at", fails=(pl.col("heat") > 80).cast(pl.Int64))
    with mlplat.connect(home) as platform, channel() as (url, texts):
        platform.features.ingest(readings, events)
        platform.features.apply(recent)
        data = platform.features.training_set("fails", labels, [recent], label="fails", time="asked_at")
        slack, network = Slack(url), mlp((16,))
        print(f"notify {slack}")

        trained = platform.train(network, data, settings=SETTINGS, notify=slack)
        try:
            platform.train(network, data, settings=WILD, notify=slack)
        except InvalidInput as error:
            failure = str(error)
        platform.train(mlp((32,)), data, settings=SETTINGS, notify=slack, stop=lambda: True)

        print("the channel:")
        for text in texts:
            print("  " + text.replace("\n", "\n    "))

    print("\nthe channel is gone:")
    with mlplat.connect(home) as platform:
        again = platform.train(mlp((32,)), data, settings=SETTINGS, notify=slack)
        print(f"  version {again.version.version} is there all the same")

    finished, failed, stopped = texts
    assert f"Version {trained.version.version} of 'fails'" in finished
    assert failure in failed
    assert "The same call goes on from there." in stopped
    assert again.version.version == 2
    assert "secret" not in f"{slack!r} {texts}"


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="a new folder (default: a temporary one)")
    main(parser.parse_args().home or Path(tempfile.mkdtemp(prefix="mlplat-k19-")))
