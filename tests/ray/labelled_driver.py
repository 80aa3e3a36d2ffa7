"""`python -m tests.ray.labelled_driver FOLDER`: a driver with a cluster of its own whose node has a label. It trains where the
label is, then asks for one that no node has, and presses Ctrl-C while it waits. Prints what came of it as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import ray
from ray.util import placement_group_table

import mlplat
from mlplat.model import mlp
from mlplat.testing.learnable import learnable
from mlplat.train.progress import Silent
from tests.train.support import settings


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def main(folder: Path) -> None:
    ray.init(address="local", num_cpus=2, labels={"site": "onprem"}, include_dashboard=False, log_to_driver=False)
    data, asked, notes = learnable(folder / "data"), iter(range(10**9)), Notes()

    def ctrl_c() -> bool:
        if next(asked) == 20:  # it is asked while the run waits
            os.kill(os.getpid(), signal.SIGINT)
        return False

    with mlplat.connect(folder / "home") as platform:

        def train(site: str, **more: object) -> object:
            compute = {"workers": 1, "CPU": 1, "labels": {"site": site}}
            return platform.train(
                mlp((16,)), data, compute=compute, settings=settings(epochs=1), progress=notes, **more
            )

        model = train("onprem")
        here = list(notes.said)
        notes.said.clear()
        try:
            train("cloud", stop=ctrl_c)
        except KeyboardInterrupt:
            elsewhere = list(notes.said)
        while any(group["state"] != "REMOVED" for group in placement_group_table().values()):
            pass  # nothing goes on waiting; the test gives up in the end
    print(json.dumps({"auc": model.metrics["auc"], "here": here, "elsewhere": elsewhere}))  # type: ignore[attr-defined]
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
