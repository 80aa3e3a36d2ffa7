"""What is told of runs that finish, fail and stop; and that no notifier fails a run or holds it up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlplat.clock import SystemClock
from mlplat.errors import Conflict, InvalidInput, MlplatError, Refused, Unavailable, UserCodeError
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.model import mlp
from mlplat.notify import Event, InMemoryNotifier, Message, Notifier, Slack
from mlplat.platform import connect
from mlplat.testing.learnable import learnable
from mlplat.train.notices import told
from mlplat.train.progress import EpochMetrics, Silent
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.trainer import Interrupted, TrainedModel, train
from tests.notify_servers import hook
from tests.train.support import Listening


class Breaking(Silent):
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def epoch(self, metrics: EpochMetrics) -> None:
        raise self._error


def run(
    folder: Path,
    metadata: InMemoryMetadata,
    *notifiers: Notifier,
    progress: Silent | None = None,
    stop: Callable[[], bool] = lambda: False,
    **given: Any,
) -> TrainedModel | Interrupted:
    data = learnable(folder / "data", rows=600)
    settings = TrainSettings(
        **{"batch_size": 128, "epochs": 2, "learning_rate": 1e-2, "holdout_s": 48 * 86_400, **given}
    )

    def call(began: Callable[[str], None]) -> TrainedModel | Interrupted:
        return train(
            data,
            Science(network=mlp((4,))),
            settings,
            demand=Demand.parse("cpu:0"),
            metadata=metadata,
            home=folder,
            clock=SystemClock(),
            progress=progress or Silent(),
            code=folder,
            stop=stop,
            began=began,
        )

    return told(call, name=data.name, notifiers=notifiers, progress=progress or Silent())


def of_error(error: BaseException, *, run_id: str | None = None) -> Message:
    """What is told of a run that raises this."""
    memory = InMemoryNotifier()

    def call(began: Callable[[str], None]) -> TrainedModel:
        if run_id is not None:
            began(run_id)
        raise error

    with pytest.raises(type(error)):
        told(call, name="late", notifiers=[memory], progress=Silent())
    (message,) = memory.messages
    return message


@pytest.mark.slow
def test_a_finished_run_tells_version_metrics_and_seconds(tmp_path: Path) -> None:
    memory, other = InMemoryNotifier(), InMemoryNotifier()
    trained = run(tmp_path, InMemoryMetadata(), memory, other)
    assert isinstance(trained, TrainedModel)
    (message,) = memory.messages
    assert other.messages == memory.messages
    assert (message.event, message.name, message.run_id) == ("finished", "late", trained.version.run_id)
    assert message.subject == "mlplat: training 'late' finished"
    assert message.text.startswith(f"Version 1 of 'late', in {trained.seconds:.1f} s.\n")
    assert f"log loss {trained.metrics['log_loss']:.4f}" in message.text
    assert message.facts["version"] == 1
    assert message.facts["best_auc"] == pytest.approx(trained.metrics["auc"])
    assert message.facts["seconds"] == trained.seconds


@pytest.mark.slow
def test_a_run_that_diverges_tells_where_and_what_to_do(tmp_path: Path) -> None:
    memory, metadata = InMemoryNotifier(), InMemoryMetadata()
    with pytest.raises(InvalidInput, match="diverged"):
        run(tmp_path, metadata, memory, learning_rate=1e35)
    ((run_id, record),) = metadata._runs.items()
    (message,) = memory.messages
    assert record["status"] == "FAILED"
    assert (message.event, message.run_id) == ("failed", run_id)
    assert message.subject == "mlplat: training 'late' failed"
    assert message.text.startswith("InvalidInput: the loss became ")
    assert "Try a learning_rate below 1e+35." in message.text
    assert "Next: correct what it names" in message.text
    assert message.facts["error"] == "InvalidInput"


def test_what_is_refused_before_the_run_has_a_record_is_told_too(tmp_path: Path) -> None:
    memory = InMemoryNotifier()
    with pytest.raises(InvalidInput, match="holdout_s"):
        run(tmp_path, InMemoryMetadata(), memory, holdout_s=400 * 86_400)
    (message,) = memory.messages
    assert (message.event, message.run_id) == ("failed", None)
    assert message.text.endswith("Nothing was recorded.")


@pytest.mark.slow
def test_a_run_that_is_stopped_or_cut_off_is_told_as_interrupted(tmp_path: Path) -> None:
    memory, metadata = InMemoryNotifier(), InMemoryMetadata()
    stopped = run(tmp_path, metadata, memory, stop=lambda: True)
    assert isinstance(stopped, Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, metadata, memory, progress=Breaking(KeyboardInterrupt()))
    asked, cut_off = memory.messages
    assert (asked.event, asked.run_id, asked.facts) == ("interrupted", stopped.run_id, {"step": stopped.step})
    assert f"after step {stopped.step}" in asked.text
    assert (cut_off.event, cut_off.run_id) == ("interrupted", stopped.run_id)
    assert cut_off.text.startswith("KeyboardInterrupt\nNext: the same call goes on")


@pytest.mark.parametrize(
    ("error", "event", "remedy"),
    [
        (InvalidInput("x"), "failed", "correct what it names"),
        (Refused("x"), "failed", "do what it says"),
        (Conflict("x"), "failed", "do what it says"),
        (Unavailable("x"), "failed", "goes on from the newest checkpoint"),
        (UserCodeError("x"), "failed", "goes on from the newest checkpoint"),
        (ValueError("x"), "failed", "goes on from the newest checkpoint"),
        (SystemExit(1), "interrupted", "goes on from the newest checkpoint"),
    ],
)
def test_each_error_has_its_remedy(error: BaseException, event: Event, remedy: str) -> None:
    message = of_error(error, run_id="r1")
    assert message.event == event
    assert remedy in message.text
    assert message.text.startswith(f"{type(error).__name__}: {error}\n")
    assert message.text.endswith("Run r1.")


def test_a_message_has_no_password_of_a_url_and_an_end() -> None:
    message = of_error(RuntimeError("postgresql://ada:s3c@ret@db.here.org/runs is away; " + "x" * 5_000))
    assert "RuntimeError: postgresql://***@db.here.org/runs is away; xxx" in message.text
    assert "s3c" not in f"{message}"
    assert len(message.text) < 2_200


def test_a_metric_that_is_undefined_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlplat.train.judge.METRICS", {"binary": {"auc": lambda labels, p: float("nan")}})
    memory = InMemoryNotifier()
    run(tmp_path, InMemoryMetadata(), memory)
    assert memory.messages[0].facts["best_auc"] is None


def test_a_run_ends_as_it_does_when_nobody_can_be_notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    progress = Listening()
    with hook(404) as server:
        assert isinstance(run(tmp_path, InMemoryMetadata(), Slack(server.url), progress=progress), TrainedModel)
        with pytest.raises(InvalidInput, match="diverged"):
            run(tmp_path, InMemoryMetadata(), Slack(server.url), progress=progress, learning_rate=1e35)
    assert progress.notes == ["Slack was not notified: 127.0.0.1 answered 404: check its URL"] * 2


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (None, "a NoneType"),
        ("", "a str"),
        ("https://hooks.here.org/s3cret", "a str"),
        (["https://hooks.here.org/s3cret"], "a str"),
        (Slack, "Slack"),
        ({"url": "s3cret"}, "a dict"),
    ],
)
def test_what_is_no_notifier_is_refused_before_anything_runs(tmp_path: Path, given: Any, kind: str) -> None:
    with connect(tmp_path / "home") as platform, pytest.raises(MlplatError, match=f"notify: {kind} is no") as caught:
        platform.train(mlp((4,)), learnable(tmp_path / "data", rows=600), notify=given)
    assert isinstance(caught.value, InvalidInput)
    assert "s3cret" not in str(caught.value)
