"""Progress through a file arrives whole and in order."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mlplat.clock import SystemClock
from mlplat.train.progress import EpochMetrics, Plan, Silent
from mlplat.train.relay import Follower, ToFile
from tests.train.support import Listening

PLAN = Plan(epochs=2, steps=10, rows_per_step=100)
EPOCH = EpochMetrics(epoch=0, train_loss=0.6, held_out={"log_loss": 0.5, "auc": 0.75}, seconds=1.0, best=True)


def test_what_was_written_is_told_and_steps_are_thinned(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.touch()
    listening = Listening()
    follower = Follower(path, listening)
    writer = ToFile(path, SystemClock())
    writer.note("é")
    writer.begin(PLAN)
    for done in range(1, 1_001):
        writer.step(done, 0.5)
    writer.epoch(EPOCH)
    writer.end()
    follower.stop()
    assert listening.told[:3] == ["é", PLAN, 1]
    assert listening.told[-1] == EPOCH
    assert len(listening.told) < 100


def test_half_a_line_waits_for_its_rest(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text('["note", "whole"]\n["note", "ha')
    listening = Listening()
    follower = Follower(path, listening)
    follower.stop()
    assert listening.told == ["whole"]


def test_an_error_of_the_listener_reaches_the_driver(tmp_path: Path) -> None:
    class Failing(Silent):
        def note(self, text: str) -> None:
            raise RuntimeError("the store is away")

    path = tmp_path / "progress.jsonl"
    path.write_text('["note", "x"]\n')
    follower = Follower(path, Failing())
    with pytest.raises(RuntimeError, match="away"):
        follower.stop()


@pytest.mark.slow
def test_a_listener_that_fails_does_not_keep_a_stop_from_being_heard(tmp_path: Path) -> None:
    class Failing(Silent):
        def note(self, text: str) -> None:
            raise RuntimeError("the pipe is closed")

    path, asked = tmp_path / "progress.jsonl", threading.Semaphore(0)
    path.write_text('["note", "x"]\n')
    follower = Follower(path, Failing(), every=asked.release)
    for _ in range(4):
        assert asked.acquire(timeout=10)
    assert follower.failed
    with pytest.raises(RuntimeError, match="closed"):
        follower.stop()
