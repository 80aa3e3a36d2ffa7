"""Latencies under a steady load, open loop at a quarter of what the endpoint can take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from statistics import median
from time import perf_counter, sleep

import numpy as np
import psutil

from benchmarks._figures import Figures, Scene
from benchmarks._processes import below
from benchmarks._serving import rig
from benchmarks._serving.client import Client, Loaded, Target

OTHER = "other"


def hung_shadow(scene: Scene) -> Mapping[str, Figures]:
    """Two names of one endpoint with the same network: one has a shadow that is shown everything and whose process is stopped."""
    pairs, requests = scene.size(10, 1), scene.size(5_000, 50)
    with Client.start(scene.folder) as client, rig.opened(scene, versions=2, names=(rig.NAME, OTHER)) as made:
        gold, other = (made.target(made.endpoint(name)) for name in (rig.NAME, OTHER))
        made.platform.shadow(rig.NAME, f"{rig.NAME}@2", share=1.0, compute="cpu:1")
        rate = quarter(client, other, scene)
        with _stopped(f"mlplat-{rig.NAME}-2"):
            client.open(gold, rate=rate, requests=requests)  # its queue is full from here on
            loads: tuple[list[Loaded], list[Loaded]] = ([], [])
            for number in range(pairs):
                turns = list(zip((gold, other), loads, strict=True))
                for target, found in turns if number % 2 else turns[::-1]:
                    found.append(client.open(target, rate=rate, requests=requests))
        counts = _shadow_counts()
    failed = sum(load.failed for each in loads for load in each)
    wrong = f"{failed} requests failed" if failed else ""
    found = {}
    for percentile in (50, 99):
        ours, reference = ([load.ms(percentile) for load in each] for each in loads)
        found[f"shadow_hung_p{percentile}"] = by_pairs(ours, reference, wrong=wrong, note=f"at {rate:.0f} requests/s")
    lost = counts["eligible"] - counts["sent"] - counts["dropped"]
    asked = (pairs + 1) * requests
    amiss = "" if counts["eligible"] == asked else f"{asked} were asked and {counts['eligible']} counted"
    found["shadow_lost"] = Figures(ours=float(abs(lost)), wrong=amiss, note=str(counts))
    return found


def flips(scene: Scene) -> Figures:
    """The first 1,000 requests after gold has become another version, of every flip together, beside as many before each."""
    flips, after = scene.size(20, 1), scene.size(1_000, 20)
    with Client.start(scene.folder) as client, rig.opened(scene, versions=2) as made:
        target = made.target(made.endpoint())
        rate = quarter(client, target, scene)
        made.platform.metadata.set_alias(rig.NAME, "gold", 2)
        made.endpoint()  # both are warm from here on
        client.begin(target, rate=rate)
        begun: list[float] = []
        for number in range(flips):
            sleep(after / rate + 0.5)
            begun.append(perf_counter())
            made.platform.metadata.set_alias(rig.NAME, "gold", 1 + number % 2)
            made.endpoint()
            sleep(after / rate + 0.5)
        client.stop()
        loaded = client.end()
    order = np.argsort(loaded.sent)
    sent, taken, version = loaded.sent[order], loaded.taken[order], loaded.version[order]
    steady, flipped = [], []
    for at in begun:
        first = int(np.searchsorted(sent, at))
        changed = first + int(np.argmax(version[first:] != version[first]))
        steady.append(taken[max(0, first - after) : first])
        flipped.append(taken[changed : changed + after])
    ours, reference = (1e3 * float(np.percentile(np.concatenate(each), 99)) for each in (flipped, steady))
    wrong = f"{loaded.failed} requests failed: {loaded.shown[0]}" if loaded.failed else ""
    if any(len(each) < after for each in (*steady, *flipped)):
        wrong = wrong or "a flip was not seen"
    return Figures(ours=ours, reference=reference, wrong=wrong, note=f"at {rate:.0f} requests/s")


def quarter(client: Client, target: Target, scene: Scene) -> float:
    """A quarter of the requests per second that a closed loop gets."""
    client.closed(target, seconds=scene.size(2, 1))
    return client.closed(target, seconds=scene.size(4, 1)).rps / 4


def by_pairs(ours: list[float], reference: list[float], *, wrong: str, note: str) -> Figures:
    """The median reference, and what stands to it as the median pair does."""
    ratios = [mine / theirs for mine, theirs in zip(ours, reference, strict=True)]
    theirs = median(reference)
    said = f"ratios {min(ratios):.3f} to {max(ratios):.3f}, {note}"
    return Figures(ours=median(ratios) * theirs, reference=theirs, wrong=wrong, note=said)


@contextmanager
def _stopped(application: str) -> Iterator[None]:
    """The backbone's processes stand still, and those too that Ray Serve starts in their place."""
    over = threading.Event()
    keeper = threading.Thread(target=_keep_stopped, args=(application, over))
    _stop_all(application)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        for process in backbones(application):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)


def _keep_stopped(application: str, over: threading.Event) -> None:
    while not over.wait(0.5):
        _stop_all(application)


def _stop_all(application: str) -> None:
    for process in backbones(application):
        with suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP)


def backbones(application: str) -> list[psutil.Process]:
    """The processes of a version with processes of its own."""
    return below(f"ServeReplica:{application}-", ":backbone")


def _shadow_counts() -> Mapping[str, int]:
    from mlplat.serve._ray import control

    counts: Mapping[str, Mapping[str, int]] = control._handle().shadows.remote().result(timeout_s=30)
    (only,) = counts.values()
    return only
