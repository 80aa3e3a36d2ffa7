"""What checkpoints of 200 MB cost: weights of 67 MB, and twice as much of the optimiser's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._training.made import HELD_OUT_ROWS, training_set
from mlplat.model import Architecture, mlp
from mlplat.train import Recovery, TrainSettings
from mlplat.train.progress import Silent
from mlplat.train.session import Session

SETTLED_STEPS = 40
"""After a checkpoint: until nothing is written any more."""


def stall(scene: Scene) -> Figures:
    """Seconds lost to a checkpoint: those of the call and of the steps behind it, over as many calm steps; at least those of
    the call."""

    def loop(told: Path, session: Session) -> None:
        steps, taken = _steps(session), ([], [])  # type: ignore[var-annotated]
        for way, lost in zip((session.checkpoint, lambda: _by_hand(session)), taken, strict=True):
            way()
            lost.clear()
        for turn in range(2 * scene.size(5, 1)):
            settled = scene.size(SETTLED_STEPS, 3)
            calm = median(next(steps) for _ in range(settled))
            began = perf_counter()
            (session.checkpoint if turn % 2 else lambda: _by_hand(session))()
            called = perf_counter() - began
            for _ in range(settled):
                next(steps)
            taken[1 - turn % 2].append(max(called, perf_counter() - began - settled * calm))
        told.write_text(json.dumps(taken))

    # Checkpoints of its own do not come in between.
    ours, reference = _run(scene, loop, Recovery(share=0.001))
    return Figures(ours=median(ours), reference=median(reference))


def share(scene: Scene) -> Figures:
    """Of a run of a minute: the time above that of as many steps during which nothing was written."""

    def loop(told: Path, session: Session) -> None:
        calm: list[float] = []
        began, done, count, saving = perf_counter(), 0, 0, False
        for took in _steps(session):
            done += 1
            count += session.saving and not saving
            saving = session.saving
            if not saving:
                calm.append(took)
            if perf_counter() - began > scene.size(75, 1):
                break
        elapsed = perf_counter() - began
        told.write_text(json.dumps([elapsed, elapsed - done * mean(calm), count]))

    elapsed, lost, count = _run(scene, loop, Recovery())
    return Figures(ours=max(0.0, lost) / elapsed, note=f"{count} checkpoints in {elapsed:.0f} s")


def _run(scene: Scene, loop: Callable[[Path, Session], None], recovery: Recovery) -> Any:
    told = scene.folder / "told.json"
    data = training_set(scene.folder / "data", rows=scene.size(200_000, 12_000), numbers=30)
    settings = TrainSettings(epochs=1, batch_size=16, holdout_s=HELD_OUT_ROWS, recovery=recovery)

    def whole(session: Session) -> None:
        for _ in session.epochs():
            loop(told, session)

    with mlplat.connect(scene.folder / "home") as platform:
        platform.train(_network(scene), data, compute="cpu:1", settings=settings, loop=whole, progress=Silent())
    return json.loads(told.read_text())


def _network(scene: Scene) -> Architecture:
    return mlp((4_080, 4_080)) if not scene.quick else mlp((64,))


def _steps(session: Session) -> Iterator[float]:
    """Seconds of each step, with what the platform does behind it."""
    began = perf_counter()
    for rows in session.batches():
        session.step(session.loss(session.forward(rows.numeric, rows.codes), rows.labels))
        now = perf_counter()
        yield now - began
        began = now


def _by_hand(session: Session) -> None:
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        torch.save(
            {"model": session.module.state_dict(), "optimizer": session.optimizer.state_dict()},
            Path(folder) / "state.pt",
        )
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))
