"""Burst to the cloud when the company's own GPUs are full, and come back when they are free.

The cluster is `clusters/onprem-burst-aws.yaml`, rehearsed on this machine: its machines are folders and its GPUs are numbers,
while the launcher, the autoscaler, the queue and the budget are those that an operator would have. Two jobs fill both servers; a
third waits as long as the file says, is sent to a machine that is bought for it, and comes home as soon as a server is free.

    python -m examples.journeys.k20_burst_to_the_cloud
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import mlplat
from mlplat.cluster.rehearsal import rehearsal

FILE = Path(__file__).parents[2] / "clusters" / "onprem-burst-aws.yaml"
# Each step is kept, so that work that is moved goes on where it was: SIGTERM says that it is to move, code 75 that it will go on.
WORK = """
import pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
for step in range(len(path.read_text()) if path.exists() else 0, int(sys.argv[2])):
    time.sleep(0.05)
    with path.open("a") as file:
        file.write(".")
"""


def impatient(config: dict[str, Any]) -> None:
    """Seconds where the file has minutes."""
    config["provider"]["burst"] = {"wait_s": 2.0, "back": True, "stay_s": 0.0}
    config["available_node_types"]["aws.gpu"]["idle_timeout_s"] = 3


def main(folder: Path) -> None:
    with rehearsal(FILE, folder, change=impatient, boot_s=2.0) as cluster:
        os.environ.update(cluster.environment)
        with mlplat.connect(folder / "home") as platform:

            def queue(name: str, steps: int, **options: Any) -> str:
                command = [sys.executable, "-c", WORK, str(folder / f"{name}.steps"), str(steps)]
                return platform.jobs.submit(command, compute={"GPU": 4}, name=name, **options)

            def site(job_id: str) -> str:
                record = platform.jobs.get(job_id)
                labels = {node["id"]: node["labels"] for node in platform.session.nodes()}
                return labels[record["nodes"][0]]["site"] if record["state"] == "running" else ""

            until(lambda: platform.session.total().get("GPU", 0) == 8, "the servers are nodes")
            full = [queue(name, 100_000, preemptible=False) for name in ("ann", "ben")]
            until(lambda: {site(job) for job in full} == {"onprem"}, "both servers are full")
            third = queue("cat", 600)
            until(
                lambda: "the cloud is asked" in platform.jobs.get(third)["reason"], "cat's job has waited long enough"
            )
            print(f"cat's job: {platform.jobs.get(third)['reason']}")
            until(lambda: site(third) == "cloud", "cat's job runs on a machine that was bought")
            print(f"bought: {cluster.machines('aws')}")
            platform.jobs.cancel(full[0])
            until(lambda: site(third) == "onprem", "a server is free, and cat's job is home again")
            done = platform.jobs.wait(third)
            steps = len((folder / "cat.steps").read_text())
            print(f"cat's job is {done['state']}: {steps} steps of 600, on {done['leases']} leases")
            until(lambda: not cluster.machines("aws"), "what was bought is given back")
            platform.jobs.cancel(full[1])


def until(true: Callable[[], bool], what: str, patience_s: float = 240.0) -> None:
    began = monotonic()
    while not true():
        if monotonic() - began > patience_s:
            raise SystemExit(f"not so after {patience_s:g} s: {what}")
        sleep(0.1)
    print(f"{monotonic() - began:6.1f} s  {what}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="k20-", dir="/tmp") as folder:
        main(Path(folder))
