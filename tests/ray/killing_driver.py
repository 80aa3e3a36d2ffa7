"""`python -m tests.ray.killing_driver FOLDER`: a driver with a cluster of its own that serves under load while, one after the
other, Serve's controller, the replica and the proxy are killed, and at last every process of the cluster. Prints what came of it
as JSON. `... FOLDER again` starts another cluster on the same home and serves again."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import polars as pl
import psutil

import mlplat
from mlplat.errors import Unavailable
from mlplat.model import mlp
from mlplat.serve.endpoint import Endpoint, alive
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent

ROW = {"a": 0.5}
SETTINGS = TrainSettings(epochs=1, holdout_s=100 * 60)
PATIENCE_S = 60.0


class Load:
    """Callers who ask again and again. A refusal or a broken connection is counted, a wrong answer kept."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._gold = endpoint.predict([ROW])[0]
        self._over = threading.Event()
        self.answered, self.failed = 0, 0
        self.wrong: list[Any] = []

    def _ask(self) -> None:
        with Endpoint(name=self._endpoint.name, url=self._endpoint.url, timeout_s=PATIENCE_S) as mine:
            while not self._over.is_set():
                try:
                    found = mine.predict([ROW])[0]
                except Unavailable:
                    self.failed += 1
                else:
                    self.answered += 1
                    if found.version == self._gold.version and found.outputs != self._gold.outputs:
                        self.wrong.append(found.outputs)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def until_answered(self) -> None:
        """By requests that begin now."""
        wanted, deadline = self.answered + 50, monotonic() + PATIENCE_S
        while self.answered < wanted and monotonic() < deadline:
            pass
        assert self.answered >= wanted, "nobody answers any more"


def below(word: str) -> list[psutil.Process]:
    """Processes of this driver's cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            pass
    return found


def kill(word: str) -> None:
    found = below(word)
    assert found, f"there is no process {word!r}"
    for process in found:
        process.kill()


def labels() -> pl.DataFrame:
    at = pl.datetime(2026, 1, 1, time_zone="UTC") + pl.duration(minutes=pl.int_range(pl.len()))
    a = pl.Series(np.random.default_rng(0).standard_normal(1_000))
    return pl.DataFrame({"a": a, "late": (a > 0).cast(pl.Int64)}).with_columns(at=at)


def main(folder: Path) -> None:
    with mlplat.connect(folder / "home") as platform:
        data = platform.features.training_set("late", labels(), [], label="late", time="at")
        for width in (4, 5):
            model = platform.train(mlp((width,)), data, settings=SETTINGS, progress=Silent())
            platform.promote(model, force=("the test", "any will do"))
        platform.metadata.set_alias("late", "gold", 1)
        endpoint = platform.serve("late")
        load, told = Load(endpoint), {}
        with load.going_on():
            for what in ("ServeController", "ServeReplica:mlplat", "haproxy"):
                load.until_answered()
                before = load.failed
                kill(what)
                load.until_answered()
                told[what] = load.failed - before
            platform.experiment("late", "late@2", share=0.25)  # changes are carried out again
            arms = platform.arms("late")["arm"].to_list()
            load.until_answered()
        print(json.dumps({"failed": told, "wrong": load.wrong, "arms": arms, "url": endpoint.url}), flush=True)
        for process in psutil.Process().children(recursive=True):
            process.kill()
        os.kill(os.getpid(), signal.SIGKILL)


def again(folder: Path) -> None:
    with mlplat.connect(folder / "home") as platform:
        gold = platform.gold("late").version
        endpoint = platform.serve("late")
        answered = endpoint.predict([ROW])[0]
        said = {"gold": gold, "arms": platform.arms("late")["arm"].to_list(), "version": answered.version}
        print(json.dumps(said | {"alive": alive(endpoint.url)}), flush=True)


if __name__ == "__main__":
    step: Callable[[Path], None] = again if sys.argv[2:] == ["again"] else main
    step(Path(sys.argv[1]))
