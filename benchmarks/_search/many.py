"""Five hundred small networks on one machine, and what giving up early saves."""

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._training.made import HELD_OUT_ROWS, training_set
from mlplat import space
from mlplat.model import mlp
from mlplat.train import TrainSettings
from mlplat.train.search import Random, Rungs

NETWORKS = {
    "network": space.made(mlp, hidden=space.repeat(space.integer(4, 64, log=True), space.integer(1, 3))),
    "learning_rate": space.number(1e-4, 1e-1, log=True),
    "batch_size": space.choice(64, 128, 256),
}


def five_hundred(scene: Scene) -> Figures:
    """Memory of all processes of the search together: what is theirs alone, and of what they share the largest part once."""
    trials, rows = scene.size(500, 6), scene.size(6_000, 4_000)
    settings = TrainSettings(epochs=3, holdout_s=HELD_OUT_ROWS / 4)
    with mlplat.connect(scene.folder / "home") as platform:
        data = training_set(scene.folder / "data", rows=rows, numbers=10)
        watch = Memory()
        began = monotonic()
        with watch:
            found = platform.search(
                NETWORKS, data, name="many", trials=trials, settings=settings, strategy=Random(), keep=1
            )
        took = monotonic() - began
        recorded = sum(trial.state == "done" for trial in platform.trials("many"))
    wrong = "" if recorded == len(found.trials) == trials else f"{recorded} of {trials} recorded"
    return Figures(ours=watch.peak / 2**30, wrong=wrong, note=f"{trials} networks in {took:.0f} s")


class Memory:
    """The most that this process and all below it had."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(0.5):
            own, shared = 0, 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    memory = process.memory_full_info()
                except psutil.Error:
                    continue
                own += memory.uss
                shared = max(shared, memory.rss - memory.uss)
            self.peak = max(self.peak, own + shared)


def early(scene: Scene) -> Figures:
    """Seconds until a trial is as good as the best of all trials that were trained to their end, within half a percent: with
    rungs, over those that all of them took."""
    trials, rows = scene.size(60, 6), scene.size(24_000, 4_000)
    settings = TrainSettings(epochs=scene.size(27, 3), patience=27, schedule="constant", holdout_s=HELD_OUT_ROWS / 4)
    options: dict[str, Any] = {
        "trials": trials,
        "settings": settings,
        "keep": 1,
        "strategy": Random(),
        "executor": "tune",
    }
    with mlplat.connect(scene.folder / "home") as platform:
        data = training_set(scene.folder / "data", rows=rows, numbers=20)
        took, losses = {}, {}
        for name, rungs in (("full", None), ("early", Rungs(first=1, factor=3))):
            began = monotonic()
            platform.search(NETWORKS, data, name=name, rungs=rungs, **options)
            took[name] = monotonic() - began
            losses[name] = _reached(platform.home / "searches" / name)
        best = platform.trials("full")
        target = 1.005 * min(trial.values[0] for trial in best if trial.values)
        reached = [at for at, loss in losses["early"] if loss <= target]
    wrong = "" if reached else "the target was never reached"
    ours = min(reached, default=took["early"])
    return Figures(
        ours=ours,
        reference=took["full"],
        wrong=wrong,
        note=f"all of them with rungs {took['early']:.0f} s, without {took['full']:.0f} s",
    )


def _reached(folder: Path) -> list[tuple[float, float]]:
    """When, in seconds since the first trial began, a trial that was trained to its end had which loss."""
    from mlplat.train.search.journal import open_journal

    storage = open_journal(folder / "journal.log")
    (study,) = storage.get_all_studies()
    trials = storage.get_all_trials(study._study_id)
    first = min(trial.datetime_start for trial in trials if trial.datetime_start)
    return [
        ((trial.datetime_complete - first).total_seconds(), float(trial.values[0]))
        for trial in trials
        if trial.datetime_complete and trial.values
    ]
