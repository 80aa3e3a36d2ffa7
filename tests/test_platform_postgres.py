"""A home whose records are in a PostgreSQL: a training while it is away, and where its password is not."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

import mlplat
from mlplat.decision import Hold
from mlplat.metadata.port import LedgerEntry
from mlplat.model import mlp
from mlplat.testing.learnable import learnable
from mlplat.train import TrainSettings
from mlplat.train.progress import EpochMetrics, Silent
from tests.postgres_server import PASSWORD, PostgresServer, serving

pytestmark = pytest.mark.slow

SETTINGS = TrainSettings(epochs=4, batch_size=128, holdout_s=48 * 86_400, learning_rate=1e-2)


class Outage(Silent):
    """Kills the server after the first epoch, and brings it back once the run waits for it."""

    def __init__(self, server: PostgresServer) -> None:
        self._server, self.notes = server, list[str]()

    def epoch(self, metrics: EpochMetrics) -> None:
        if metrics.epoch == 0:
            self._server.kill()

    def note(self, text: str) -> None:
        self.notes.append(text)
        if text.startswith("waiting for the metadata store"):
            self._server.start()


def test_a_training_outlives_an_outage_and_the_password_is_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        url = server.create("runs")
        outage = Outage(server)
        with mlplat.connect(tmp_path / "home", metadata=url) as platform:
            data = learnable(tmp_path / "data", rows=1_000)
            model = platform.train(mlp((8,)), data, settings=SETTINGS, progress=outage)
            run = platform.metadata.run(model.version.run_id)
            assert run["status"] == "FINISHED"
            assert platform.metadata.versions("late") == [model.version]
            history = platform.metadata._client.get_metric_history(model.version.run_id, "train_loss")  # type: ignore[attr-defined]
            assert [metric.step for metric in history] == [0, 1, 2, 3]
            assert [note.partition(":")[0] for note in outage.notes] == [
                *(f"epoch {epoch} will be recorded later" for epoch in (2, 3, 4)),
                "waiting for the metadata store, 180 s at most",
            ]
            platform.metadata.record(
                LedgerEntry(at_us=1, policy="p", subject="late", decision=Hold(reason="r"), actor="ann")
            )
            shown = [
                repr(platform),
                repr(platform.__dict__),
                str(platform._settings),
                repr(platform.metadata),
                json.dumps(platform.status()),
                json.dumps(run),
                repr(platform.metadata.texts(model.version.run_id)),
                repr(platform.metadata.decisions()),
                *outage.notes,
                *capfd.readouterr(),
            ]
            assert PASSWORD in _decoded(platform.metadata_url)  # what is looked for below would be found
        shown += [file.read_bytes().decode("latin-1") for file in (tmp_path / "home").rglob("*") if file.is_file()]
        for password in (PASSWORD, quote(PASSWORD, safe=""), "hunter2"):
            assert not any(password in text for text in shown)


def _decoded(url: str) -> str:
    from sqlalchemy.engine import make_url

    return str(make_url(url).password)
