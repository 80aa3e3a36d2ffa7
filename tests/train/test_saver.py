"""The saver: what it is given may change at once, and what cannot be written is said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mlplat.clock import SystemClock
from mlplat.train.checkpoints import Checkpoints
from mlplat.train.saver import Saver


class Gated(Checkpoints):
    """Writes when it may."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.may = threading.Event()
        self.best: list[Any] = []

    def write(self, *given: Any) -> None:
        self.may.wait(30)
        self.best.append(given[3])
        super().write(*given)


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Gated]:
    made = Gated(tmp_path)
    yield made
    made.may.set()


def test_training_goes_on_while_it_writes_what_was_there_before(gated: Gated) -> None:
    saver, weights = Saver(gated, SystemClock(), committed=0), torch.zeros(4)
    saver.save(5, {"weights": weights}, {})
    weights += 1
    assert (saver.begun, saver.committed, saver.idle) == (5, 0, False)
    gated.may.set()
    saver.wait()
    assert (saver.committed, saver.idle) == (5, True)
    assert gated.read(5).state["weights"].tolist() == [0.0] * 4
    saver.save(6, {"weights": weights}, {})
    saver.close()
    assert gated.read(6).state["weights"].tolist() == [1.0] * 4


def test_the_best_weights_are_written_once(gated: Gated) -> None:
    saver, best = Saver(gated, SystemClock(), committed=0), {"a": torch.zeros(2)}
    gated.may.set()
    for step in (1, 2):
        saver.save(step, {}, best)
    saver.close()
    assert gated.best == [best, None]


def test_what_cannot_be_written_is_said_once_and_the_next_is_whole(
    gated: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, best = Saver(gated, SystemClock(), committed=0), {"a": torch.zeros(2)}
    gated.may.set()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        saver.save(1, {"a": torch.zeros(1)}, best)
        saver.wait()
    assert saver.committed == 0
    assert "step 1 could not be written ([Errno 28] No space left" in saver.failures()[0]
    assert saver.failures() == []
    saver.save(2, {"a": torch.zeros(1)}, best)
    saver.close()
    assert gated.read(2).best["a"].tolist() == [0.0, 0.0]


def test_what_the_library_cannot_write_is_no_error_either(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(gated, SystemClock(), committed=0)
    gated.may.set()
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: "/dev/null")
    saver.save(1, {"a": torch.zeros(1)}, {})
    saver.close()
    assert "Not a directory" in saver.failures()[0]
