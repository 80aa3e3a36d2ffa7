"""A trial that has to give way again and again."""

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._jobs.real import cluster
from benchmarks._training.kills import Counting
from benchmarks._training.made import HELD_OUT_ROWS, training_set
from mlplat import space
from mlplat.model import mlp
from mlplat.train import Recovery, TrainSettings
from mlplat.train.search import Random

PATIENCE_S = 120.0


def trial(scene: Scene) -> Figures:
    """Steps done twice by a trial that gave way five times, if the metric at its end is that of an undisturbed one."""
    times, rows = scene.size(5, 1), scene.size(300_000, 60_000)
    epochs = scene.size(10, 4)
    settings = TrainSettings(
        epochs=epochs, patience=epochs, holdout_s=HELD_OUT_ROWS, recovery=Recovery(steps=1_000_000, failures=0)
    )
    steps = epochs * ((rows - HELD_OUT_ROWS) // settings.batch_size)
    data = training_set(scene.folder / "data", rows=rows, numbers=30)
    networks = {"network": space.made(mlp, hidden=[space.choice(64)])}
    counted = {name: scene.folder / name for name in ("preempted", "calm")}
    values, gave_way = {}, 0
    with cluster(scene.folder, cpus=1) as platform:
        platform.session.share()
        for name, folder in counted.items():
            folder.mkdir()
            at = [steps * (i + 1) // (times + 1) for i in range(times)] if name == "preempted" else []
            urgent = Urgent(platform, folder, at)
            with urgent:
                found = platform.search(
                    networks,
                    data,
                    name=name,
                    trials=1,
                    settings=settings,
                    loss=Counting(folder),
                    executor="tune",
                    strategy=Random(),
                )
            values[name] = found.trials[0].values
            gave_way = max(gave_way, urgent.asked)
    done = {name: _done(folder) for name, folder in counted.items()}
    wrong = [] if values["preempted"] == values["calm"] else [f"the metric is {values}"]
    wrong += [] if gave_way == times or scene.quick else [f"it gave way {gave_way} of {times} times"]
    return Figures(
        ours=float(done["preempted"] - done["calm"]),
        wrong="; ".join(wrong),
        note=f"gave way {gave_way} times in {steps} steps",
    )


class Urgent:
    """Asks for the only core with priority production whenever so many steps were done."""

    def __init__(self, platform: mlplat.Platform, counted: Path, at: list[int]) -> None:
        self._platform, self._counted, self._at = platform, counted, at
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.asked = 0

    def __enter__(self) -> Urgent:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        for at in self._at:
            until = monotonic() + PATIENCE_S
            while _done(self._counted) < at and monotonic() < until:
                if self._over.wait(0.02):
                    return
            with self._platform.jobs.lease("cpu:1", priority="production", name="urgent"):
                self.asked += 1


def _done(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
