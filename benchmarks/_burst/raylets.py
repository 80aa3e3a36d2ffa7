"""What bursting does on real nodes of Ray: `clusters/onprem-burst-aws.yaml`, launched by Ray with folders as machines."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import mlplat
from benchmarks._burst import simulated
from benchmarks._figures import Figures, Scene
from mlplat.cluster.rehearsal import Rehearsal, rehearsal
from mlplat.config import in_environment

FILE = Path(__file__).parents[2] / "clusters" / "onprem-burst-aws.yaml"
IDLE_S, BOOT_S, CHECKPOINT, PATIENCE_S = 10, 3.0, 20, 180.0
SLOTS = {"GPU": 4}
# One line a step; what it goes on from is written every twenty.
WORK = f"""
import os, pathlib, sys, time
log, kept = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".kept")
step = int(kept.read_text()) if kept.exists() else 0
while True:
    time.sleep(0.05)
    with log.open("a") as file:
        file.write(f"{{step}}\\n")
    step += 1
    if step % {CHECKPOINT} == 0:
        draft = pathlib.Path(f"{{kept}}.draft")
        draft.write_text(str(step))
        os.replace(draft, kept)
"""


def rows(scene: Scene) -> dict[str, Figures]:
    """Own machines are filled, two jobs go to bought ones, those are killed at once, and in the end all work is over."""
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="burst-", dir="/tmp") as name:
        folder = Path(name)
        with (
            rehearsal(FILE, folder, change=_impatient, boot_s=BOOT_S) as cluster,
            in_environment(cluster.environment),
            mlplat.connect(folder / "home") as platform,
            _launches(platform, cluster) as free,
        ):
            found |= _killed_and_given_back(scene, platform, cluster)
    said = simulated.costs(scene)["free_at_launch"]
    note = f"raylets: {len(free)} machines bought while {max(free):g} own GPUs were free"
    found["free_at_launch"] = replace(said, ours=max([said.ours, *free]), note=note)
    return found


def _killed_and_given_back(scene: Scene, platform: Any, cluster: Rehearsal) -> dict[str, Figures]:
    def queue(name: str, **options: Any) -> str:
        command = [sys.executable, "-c", WORK, str(cluster.folder / name)]
        return str(platform.jobs.submit(command, compute=SLOTS, name=name, **options))

    def steps(name: str) -> list[int]:
        path = cluster.folder / name
        return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    _until(lambda: platform.session.total().get("GPU", 0) == 8)
    full = [queue(name, preemptible=False) for name in ("own-1", "own-2")]
    _until(lambda: steps("own-1") and steps("own-2"))
    jobs = {name: queue(name) for name in ("cloud-1", "cloud-2")}
    _until(lambda: all(len(steps(name)) > 2 * CHECKPOINT for name in jobs))
    lost = cluster.machines("aws")
    for machine in lost:
        cluster.lose("aws", machine)
    killed_s, before = monotonic(), {name: steps(name) for name in jobs}
    _until(lambda: all(len(steps(name)) > len(before[name]) for name in jobs))
    again_s = monotonic() - killed_s
    repeated = max(before[name][-1] + 1 - steps(name)[len(before[name])] for name in jobs)
    scene.say(f"{len(lost)} bought machines killed; {repeated} steps done again, of {CHECKPOINT} between checkpoints")
    for job in jobs.values():
        platform.jobs.cancel(job)
    _until(lambda: all(platform.jobs.get(job)["state"] == "cancelled" for job in jobs.values()))
    over_s = monotonic()
    _until(lambda: not cluster.machines("aws"))
    back_s = monotonic() - over_s - IDLE_S
    for job in full:
        platform.jobs.cancel(job)
    return {
        "give_back_s": Figures(ours=back_s),
        "all_cloud_killed_s": Figures(
            ours=again_s, wrong="" if len(lost) == 2 else f"{len(lost)} machines were bought"
        ),
        "all_cloud_lost": Figures(ours=float(max(0, repeated - CHECKPOINT))),
    }


def _impatient(config: dict[str, Any]) -> None:
    config["provider"]["burst"] = {"wait_s": 1.0, "stay_s": 0.0}
    config["available_node_types"]["aws.gpu"]["idle_timeout_s"] = IDLE_S


@contextmanager
def _launches(platform: Any, cluster: Rehearsal) -> Iterator[list[float]]:
    """At each machine that is bought: how many GPUs of own ones are free."""
    from ray._private.state import available_resources_per_node

    free, ended = list[float](), threading.Event()
    platform.session.total()

    def watch() -> None:
        known: set[str] = set()
        while not ended.wait(0.05):
            there = set(cluster.machines("aws"))
            if there - known:
                own = {node["id"] for node in platform.session.nodes() if node["labels"].get("site") == "onprem"}
                now = sum(has.get("GPU", 0.0) for node, has in available_resources_per_node().items() if node in own)
                free.extend([now] * len(there - known))
                known |= there

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield free
    finally:
        ended.set()
        thread.join()


def _until(true: Callable[[], Any]) -> None:
    began, pause = monotonic(), threading.Event()
    while not true():
        if monotonic() - began > PATIENCE_S:
            raise TimeoutError(f"not so after {PATIENCE_S:g} s")
        pause.wait(0.05)
