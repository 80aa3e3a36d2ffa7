"""Processes that are killed: what is done twice, and whether the weights are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._processes import below
from benchmarks._training.made import HELD_OUT_ROWS, training_set
from benchmarks._training.steps import FLIGHTS, ROOT
from mlplat.train import Recovery, TrainSettings
from mlplat.train.progress import EpochMetrics, Plan, Silent

INTERVAL, EPOCHS = 200, 10


class Counting:
    """The usual loss; rank 0 writes a byte for each step that it begins to a file of its process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and (not dist.is_initialized() or dist.get_rank() == 0):
            with (self._folder / str(os.getpid())).open("ab", buffering=0) as file:
                file.write(b".")
        return nn.functional.binary_cross_entropy_with_logits(raw[:, 0], labels)


class Killing(Silent):
    """Kills a worker, whichever, when a run has come to each of these steps. `resumed` are those it went on from."""

    def __init__(self, at: list[int], rng: random.Random) -> None:
        self._at, self._rng = sorted(at, reverse=True), rng
        self.resumed: list[int] = []

    def begin(self, plan: Plan) -> None:
        self.resumed.append(plan.done)

    def step(self, done: int, loss: float) -> None:
        if self._at and done >= self._at[-1] and (workers := below("RayTrainWorker")):
            while self._at and done >= self._at[-1]:
                self._at.pop()
            self._rng.choice(workers).kill()


def worker(scene: Scene) -> Figures:
    kills = scene.size(10, 1)
    rows = scene.size(600_000, 60_000)
    data = training_set(scene.folder / "data", rows=rows, numbers=30)
    settings = _settings(epochs=scene.size(EPOCHS, 4), failures=kills)
    steps = settings.epochs * ((rows - HELD_OUT_ROWS) // settings.batch_size)
    rng = random.Random(7)
    killing = Killing([int(steps * (i + rng.random()) / (kills + 1)) for i in range(kills)], rng)
    digests = []
    with mlplat.connect(scene.folder / "home") as platform:
        for name, progress in (("killed", killing), ("calm", Silent())):
            counted = scene.folder / name
            counted.mkdir()
            model = platform.train(
                FLIGHTS, data, compute="cpu:2", settings=settings, loss=Counting(counted), progress=progress
            )
            digests.append(model.model.digest)
    twice = _twice(scene.folder / "killed", killing.resumed)
    wrong = [] if len(twice) == kills else [f"{len(twice)} of {kills} kills came in time"]
    wrong += [] if digests[0] == digests[1] else ["the weights are not those of an undisturbed run"]
    return Figures(
        ours=float(max(twice)), reference=float(INTERVAL), wrong="; ".join(wrong), note=f"done twice in each: {twice}"
    )


def driver(scene: Scene) -> Figures:
    """The driver is killed in the middle of its fourth epoch."""
    first = _driver(scene.folder / "killed", scene.quick, until=3)
    again = _driver(scene.folder / "killed", scene.quick, until=None)
    calm = _driver(scene.folder / "calm", scene.quick, until=None)
    repeated = len({e for e in first if isinstance(e, int)} & {e for e in again if isinstance(e, int)})
    wrong = "" if again[-1] == calm[-1] else "the weights are not those of an undisturbed run"
    return Figures(ours=float(repeated), wrong=wrong, note=f"epochs of the first {first}, of the second {again[:-1]}")


def _twice(folder: Path, resumed: list[int]) -> list[int]:
    """Steps that each kill made be done twice: how far a process had come, less where the next one went on."""
    counts = [file.stat().st_size for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)]
    came_to = [begun + count for begun, count in zip(resumed, counts, strict=True)]
    return [end - begun for end, begun in zip(came_to, resumed[1:], strict=False)]


def _settings(*, epochs: int, failures: int = 3) -> TrainSettings:
    recovery = Recovery(steps=INTERVAL, failures=failures)
    return TrainSettings(epochs=epochs, patience=epochs, holdout_s=HELD_OUT_ROWS, recovery=recovery)


def _driver(folder: Path, quick: bool, *, until: int | None) -> list[int | str]:
    """The epochs that a driver in a process of its own tells of, and the digest of its model at the end; killed in the epoch
    after `until` were told."""
    command = [sys.executable, "-m", "benchmarks._training.kills", str(folder), str(int(quick))]
    told: list[int | str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            kind, value = json.loads(line)
            if kind == "step":
                if until is not None and len(told) >= until:
                    process.kill()
                    break
            else:
                told.append(value)
    return told


class Telling(Silent):
    def __init__(self, say: Callable[[str, object], None]) -> None:
        self._say = say

    def step(self, done: int, loss: float) -> None:
        self._say("step", done)

    def epoch(self, metrics: EpochMetrics) -> None:
        self._say("epoch", metrics.epoch)


def _say(kind: str, value: object) -> None:
    print(json.dumps([kind, value]), flush=True)


def main() -> None:
    folder, quick = Path(sys.argv[1]), bool(int(sys.argv[2]))
    data = training_set(folder / "data", rows=60_000 if quick else 300_000, numbers=30)
    with mlplat.connect(folder / "home") as platform:
        model = platform.train(FLIGHTS, data, compute="cpu:2", settings=_settings(epochs=6), progress=Telling(_say))
        _say("digest", model.model.digest)


if __name__ == "__main__":
    main()
