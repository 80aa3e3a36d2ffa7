"""Requests per second: the endpoint beside an echo, beside itself without its parts, and beside other servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import sleep

import httpx

from benchmarks._figures import Figures, PeerAbsent, Scene
from benchmarks._form import medians
from benchmarks._serving import peers, rig
from benchmarks._serving.by_hand import BARE_BODY, Kind
from benchmarks._serving.client import ROOT, Client, Loaded, Target
from mlplat._ray.connect import free_port

ROUNDS = 5
WITH_AND_WITHOUT: tuple[Kind, Kind] = ("whole", "no_log")


class Loads:
    """Closed loops on one load generator, and what went wrong in them."""

    def __init__(self, client: Client, scene: Scene) -> None:
        self._client = client
        self._seconds = scene.size(4, 1)
        self.rounds = scene.size(ROUNDS, 1)
        self.failed: list[str] = []

    @property
    def wrong(self) -> str:
        return "" if not self.failed else f"{len(self.failed)} requests failed: {self.failed[0]}"

    def load(self, target: Target, *, connections: int = 64) -> Loaded:
        found = self._client.closed(target, seconds=self._seconds, connections=connections)
        self.failed += found.shown
        return found

    def rps(self, *targets: Target) -> list[float]:
        """Of each, taking turns."""
        return medians(self.rounds, *(lambda target=target: self.load(target).rps for target in targets))

    def figures(self, ours: Target, reference: Target, note: str = "") -> Figures:
        mine, theirs = self.rps(ours, reference)
        return Figures(ours=mine, reference=theirs, wrong=self.wrong, note=note)


def hit(scene: Scene) -> Mapping[str, Figures]:
    """A row that was answered before, beside an echo on the same cluster."""
    with Client.start(scene.folder) as client, rig.opened(scene) as made:
        ours = made.target(made.endpoint(), repeat=rig.HIT)
        echo = replace(ours, path=_by_hand("echo", made, ours))
        loads = Loads(client, scene)
        rate = loads.figures(ours, echo, note=f"the load generator alone reaches {_own_rate(loads):,.0f} requests/s")
        mine, theirs = medians(
            loads.rounds, *(lambda t=target: loads.load(t, connections=1).ms(50) for target in (ours, echo))
        )
        _hits_only(made, loads)
        return {"hit_rps": rate, "hit_p50": Figures(ours=mine, reference=theirs, wrong=loads.wrong)}


def parts(scene: Scene) -> Mapping[str, Figures]:
    """The endpoint with a second arm, beside one of no assignment, features, cache and log; and beside itself without the log."""
    with Client.start(scene.folder) as client, rig.opened(scene, versions=2) as made:
        ours = made.target(made.endpoint())
        made.platform.experiment(rig.NAME, f"{rig.NAME}@2", share=0.1)
        loads = Loads(client, scene)
        bare = replace(ours, path=f"{_by_hand('bare', made, ours)}{ours.path}", body=BARE_BODY)
        full = loads.figures(ours, bare)
        whole, silent = (replace(ours, path=f"{_by_hand(kind, made, ours)}{ours.path}") for kind in WITH_AND_WITHOUT)
        return {"full_path": full, "log_cost": loads.figures(whole, silent)}


def fused(scene: Scene) -> Mapping[str, Figures | PeerAbsent]:
    """The whole path of rows that were never asked before, the model in the endpoint's process."""
    found: dict[str, Figures | PeerAbsent] = {}
    with Client.start(scene.folder) as client, rig.opened(scene) as made:
        ours = made.target(made.endpoint())
        at_replica = replace(ours, port=rig.replica_port())
        module, answer = _module(made, scene)
        for key, peer, target in (
            ("fused_litserve", peers.LITSERVE, ours),
            ("fused_bentoml", peers.BENTOML, ours),
            ("fused_mlflow", peers.MLFLOW, ours),
            ("fused_floor", peers.FLOOR, at_replica),
        ):
            try:
                with peers.serving(scene, peer, module, answer) as theirs:
                    found[key] = Loads(client, scene).figures(target, theirs)
            except PeerAbsent as reason:
                found[key] = reason
    return found


def chain(scene: Scene) -> Figures:
    """Rows that were never asked before, the model in a process of its own."""
    with Client.start(scene.folder) as client, rig.opened(scene) as made:
        ours = made.target(made.endpoint(compute="cpu:1"))
        module, answer = _module(made, scene)
        with peers.serving(scene, peers.CHAIN, module, answer) as theirs:
            return Loads(client, scene).figures(ours, theirs)


def _module(made: rig.Rig, scene: Scene) -> tuple[Path, float]:
    path = scene.folder / "module.pt"
    return path, peers.module_of(made.platform.load(f"{rig.NAME}@1"), path)


def _by_hand(kind: Kind, made: rig.Rig, ours: Target) -> str:
    from benchmarks._serving import on_ray

    return on_ray.run(kind, made.platform.home.resolve(), f"http://127.0.0.1:{ours.port}")


def _hits_only(made: rig.Rig, loads: Loads) -> None:
    """What was to be a hit was one, as the log has it."""
    cached = made.platform.predictions(rig.NAME)["cached"].to_pylist()
    misses = cached.count(False)
    if misses > rig.HIT:
        loads.failed.append(f"{misses} of {len(cached)} were no hits")


def _own_rate(loads: Loads) -> float:
    with _instant() as port:
        return median(loads.load(Target(port=port, path="/", body=rig.BODY)).rps for _ in range(2))


@contextmanager
def _instant() -> Iterator[int]:
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "benchmarks._serving.instant", str(port)], cwd=ROOT) as process:
        try:
            for _ in range(100):
                try:
                    httpx.get(f"http://127.0.0.1:{port}", trust_env=False)
                    break
                except httpx.HTTPError:
                    sleep(0.1)
            yield port
        finally:
            process.kill()
