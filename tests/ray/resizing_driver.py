"""`python -m tests.ray.resizing_driver FOLDER`: a driver with a cluster of its own, of two cores and a label, one core of which
another actor holds until a run on the other has come to its 40th step. Prints what each worker did as JSON."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from pathlib import Path

import ray

import mlplat.train._ray.run as on_ray
from mlplat.jobs.demand import Demand
from mlplat.model import mlp
from mlplat.train.progress import Plan, Silent
from mlplat.train.science import Science
from mlplat.train.session import Session
from mlplat.train.settings import Recovery
from mlplat.train.work import Learned
from tests.train.support import work

STUCK_S = 120.0


class Loop:
    """Writes down which rows each worker has in which step; waits in the 40th of a lone worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, session: Session) -> None:
        with (self.folder / f"{session.size}-{session.rank}.rows").open("a") as rows:
            for _ in session.epochs():
                for batch in session.batches():
                    if session.size == 1 and session.done == 40:
                        (self.folder / "stuck").touch()
                        threading.Event().wait(STUCK_S)
                    hashes = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in batch.numeric.numpy()]
                    rows.write(json.dumps([session.done, hashes]) + "\n")
                    rows.flush()
                    session.step(session.loss(session.forward(batch.numeric, batch.codes), batch.labels))


class Listening(Silent):
    def __init__(self) -> None:
        self.begun: list[int] = []

    def begin(self, plan: Plan) -> None:
        self.begun.append(plan.done)


@ray.remote(num_cpus=1)
class Holder:
    def hold(self) -> None:
        pass


def main(folder: Path, parallel: str) -> None:
    on_ray.RESIZE_S = 1.0
    ray.init(address="local", num_cpus=2, labels={"site": "onprem"}, include_dashboard=False, log_to_driver=False)
    holder = Holder.remote()
    ray.get(holder.hold.remote())

    def free_once_stuck() -> bool:
        if (folder / "stuck").exists():
            (folder / "stuck").unlink()
            ray.kill(holder)
        return False

    science = Science(network=mlp((16,)), loop=Loop(folder))
    one = work(folder, science=science, recovery=Recovery(steps=8), parallel=parallel)
    one.folder.mkdir()
    listening = Listening()
    demand = Demand.parse({"workers": [1, 2], "CPU": 1, "labels": {"site": "onprem"}})
    learned = on_ray.learn_on_workers(one, demand, listening, free_once_stuck)
    assert isinstance(learned, Learned)
    print(json.dumps({"begun": listening.begun, "auc": learned.history[-1].held_out["auc"]}))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
