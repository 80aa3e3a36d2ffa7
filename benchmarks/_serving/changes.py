"""What is lost while versions come and go, and how long one takes to come."""

from __future__ import annotations

import os
import signal
from statistics import median
from time import perf_counter, sleep

import numpy as np
import psutil

from benchmarks._figures import Figures, Scene
from benchmarks._processes import below
from benchmarks._serving import rig
from benchmarks._serving.client import Client, Loaded
from benchmarks._serving.tails import backbones, quarter
from mlplat.serve.endpoint import alive

CONNECTIONS = 8
FLUSH_S = 1.0
KILLS = 3


def failed(scene: Scene) -> Figures:
    """Every change that a name goes through, one after another, again and again until so many requests were asked."""
    requests = scene.size(100_000, 500)
    with Client.start(scene.folder) as client, rig.opened(scene, versions=2) as made:
        platform = made.platform
        target = made.target(made.endpoint())
        client.closed(target, seconds=1)
        client.begin(target, connections=CONNECTIONS)
        rounds = 0
        while not rounds or client.sent() < requests:
            rounds += 1
            for share in (0.01, 0.1, 0.5, 1.0):
                platform.experiment(rig.NAME, f"{rig.NAME}@2", share=share, compute="cpu:1")
                sleep(0.5)
            (victim,) = backbones(f"mlplat-{rig.NAME}-2")
            os.kill(victim.pid, signal.SIGKILL)
            sleep(1.0)
            platform.end(rig.NAME, "v2")
            for gold in (2, 1):  # promoted, and back
                platform.metadata.set_alias(rig.NAME, "gold", gold)
                made.endpoint()
                sleep(0.5)
        client.stop()
        loaded = client.end()
    note = f"{loaded.requests:,} requests, {rounds} rounds, {_versions(loaded)}; {' | '.join(loaded.shown)}"
    unseen = "" if {1, 2} <= set(loaded.version.tolist()) else "a version answered nobody"
    return Figures(ours=float(loaded.failed), wrong=unseen, note=note)


def log_lost(scene: Scene) -> Figures:
    """The ingress replica is killed under load. What was answered and is not in the log, as a part of what is answered in one
    interval of the log's; the worst kill counts."""
    worst, said = 0.0, []
    with Client.start(scene.folder) as client, rig.opened(scene) as made:
        endpoint = made.endpoint()
        target = made.target(endpoint)
        rate = quarter(client, target, scene)
        for _ in range(scene.size(KILLS, 1)):
            client.begin(target, rate=rate, requests=int(rate * 4))
            sleep(2.37)
            os.kill(_ingress().pid, signal.SIGKILL)
            killed = perf_counter()
            loaded = client.end()
            while not alive(endpoint.url):
                sleep(0.1)
            answered = (loaded.status == 200) & (loaded.sent + loaded.taken <= killed)
            logged = {int(one) for one in made.platform.predictions(rig.NAME)["request_id"].to_pylist()}
            lost = np.array([int(n) not in logged for n in loaded.number]) & answered
            worst = max(worst, lost.sum() / (rate * FLUSH_S))
            said.append(f"{lost.sum()} of {answered.sum()}")
    return Figures(ours=worst, note=f"lost {', '.join(said)} answered at {rate:.0f} requests/s")


def admitted(scene: Scene) -> Figures:
    """From a registered version to an experiment that answers, in a process of its own, the endpoint up."""
    seconds = []
    with rig.opened(scene, versions=1 + scene.size(3, 1)) as made:
        endpoint = made.endpoint()
        rows = [{"user": rig.FIRST_ENTITY + i, "a": 0.1, "b": 0.2, "c": 0.3} for i in range(50)]
        for number in range(2, 2 + scene.size(3, 1)):
            began = perf_counter()
            made.platform.experiment(rig.NAME, f"{rig.NAME}@{number}", share=1.0, compute="cpu:1")
            found = {prediction.version for prediction in endpoint.predict(rows)}
            seconds.append(perf_counter() - began)
            if found != {number}:
                return Figures(ours=median(seconds), wrong=f"version {number} was admitted and {found} answered")
            made.platform.end(rig.NAME, f"v{number}")
    return Figures(ours=median(seconds), note=", ".join(f"{one:.1f} s" for one in seconds))


def _ingress() -> psutil.Process:
    (only,) = below("ServeReplica:mlplat:ingress")
    return only


def _versions(loaded: Loaded) -> str:
    found, counts = np.unique(loaded.version, return_counts=True)
    return ", ".join(f"{count:,} by version {number}" for number, count in zip(found, counts, strict=True))
