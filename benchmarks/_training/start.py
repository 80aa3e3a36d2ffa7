"""From the call to the first step."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._training.made import HELD_OUT_ROWS, training_set
from benchmarks._training.steps import FLIGHTS
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent


class FirstStep(Silent):
    at: float | None = None

    def step(self, done: int, loss: float) -> None:
        if self.at is None:
            self.at = perf_counter()


def local(scene: Scene) -> Figures:
    """In this process beside two workers, both with the home open, the store of records open and Ray up."""
    data = training_set(scene.folder / "data", rows=scene.size(100_000, 12_000), numbers=30)
    seconds: dict[str, list[float]] = {"cpu:0": [], "cpu:2": []}
    with mlplat.connect(scene.folder / "home") as platform:
        for seed in range(scene.size(4, 1)):
            for compute, taken in seconds.items():
                first = FirstStep()
                settings = TrainSettings(epochs=1, holdout_s=HELD_OUT_ROWS, seed=seed)
                began = perf_counter()
                platform.train(FLIGHTS, data, compute=compute, settings=settings, progress=first)
                assert first.at is not None
                taken.append(first.at - began)
    warm = [taken[1:] or taken for taken in seconds.values()]
    return Figures(ours=median(warm[0]), reference=median(warm[1]))
