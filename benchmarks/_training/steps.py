"""The step: beside a loop by hand in the same processes, on one worker and two, and fed from a large table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch.distributed as dist

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._training.bare import Loop
from benchmarks._training.made import HELD_OUT_ROWS, training_set
from mlplat.model import mlp
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from mlplat.train.session import Session

FLIGHTS = mlp((128, 64), dropout=0.1)
"""The flights job's network."""
LARGE = mlp((1_024, 1_024, 512))
ROOT = Path(__file__).parents[2]


def against_ddp(scene: Scene) -> Figures:
    pairs, each = scene.size(30, 2), scene.size(100, 5)
    found = _in_turns(scene, compute="cpu:2", rows=scene.size(400_000, 30_000), pairs=pairs, each=each)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python", sys.executable]
    command += ["-m", "benchmarks._training.bare", str(pairs), str(each)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ours, bare = (1e3 * median(taken) / each for taken in found)
    ratio = median(mine / theirs for mine, theirs in zip(*found, strict=True))
    alone = f"medians alone {ours:.3f} / {bare:.3f} ms; torchrun {json.loads(done.stdout):.3f} ms"
    return Figures(ours=ours, reference=ours / ratio, note=f"the median of {pairs} pairs' ratios; {alone}")


def from_tables(scene: Scene) -> Figures:
    """Rows per second in the second pass over a table, beside a loop over tensors in memory."""
    pairs, each = scene.size(8, 2), scene.size(500, 5)
    found = _in_turns(
        scene, compute="cpu:0", rows=scene.size(5_000_000, 30_000), pairs=pairs, each=each, first_pass=True
    )
    ours, bare = (each * 1_024 / median(taken) for taken in found)
    return Figures(ours=ours, reference=bare)


def scaling(scene: Scene) -> Figures:
    """Rows per second; a batch of 1,024 for each worker, and runs that take turns."""
    data = training_set(scene.folder / "data", rows=scene.size(60_000, 14_000), numbers=30)
    speeds: dict[int, list[float]] = {1: [], 2: []}
    with mlplat.connect(scene.folder / "home") as platform:
        for turn in range(scene.size(2, 1)):
            for workers in (1, 2):
                epochs = scene.size(4, 2)
                settings = TrainSettings(
                    epochs=epochs, patience=epochs, batch_size=1_024 * workers, holdout_s=HELD_OUT_ROWS, seed=turn
                )
                told = scene.folder / f"{turn}-{workers}.json"
                loop = _timing_epochs(told)
                platform.train(LARGE, data, compute=f"cpu:{workers}", settings=settings, loop=loop, progress=Silent())
                speeds[workers] += json.loads(told.read_text())[1:]
    return Figures(ours=median(speeds[2]), reference=median(speeds[1]))


def _in_turns(
    scene: Scene, *, compute: str, rows: int, pairs: int, each: int, first_pass: bool = False
) -> tuple[list[float], list[float]]:
    """Seconds of blocks of `each` steps of ours and by hand, taking turns in the same processes."""
    data = training_set(scene.folder / "data", rows=rows, numbers=30)
    told = scene.folder / "told.json"
    settings = TrainSettings(epochs=100, patience=100, holdout_s=HELD_OUT_ROWS)
    with mlplat.connect(scene.folder / "home") as platform:
        loop = _taking_turns(told, pairs, each, first_pass=first_pass)
        platform.train(FLIGHTS, data, compute=compute, settings=settings, loop=loop, progress=Silent())
    ours, bare = json.loads(told.read_text())
    return ours, bare


def _taking_turns(told: Path, pairs: int, each: int, *, first_pass: bool) -> Callable[[Session], None]:
    def loop(session: Session) -> None:
        batch = session.plan.rows_per_step // session.size
        bare = Loop(session.module, session.rows, batch=batch, rate=session.settings.learning_rate)
        bare.steps(each)
        taken: tuple[list[float], list[float]] = ([], [])
        for epoch in session.epochs():
            began = perf_counter()
            for done, rows in enumerate(session.batches(), 1):
                session.step(session.loss(session.forward(rows.numeric, rows.codes), rows.labels))
                if done % each == 0 and (epoch > 0 or not first_pass):
                    taken[0].append(perf_counter() - began)
                    _together(session)
                    began = perf_counter()
                    bare.steps(each)
                    taken[1].append(perf_counter() - began)
                    _together(session)
                    if len(taken[0]) == pairs + 1:
                        if session.rank == 0:
                            told.write_text(json.dumps([part[1:] for part in taken]))
                        break
                    began = perf_counter()
            if len(taken[0]) > pairs:
                session.finish()

    return loop


def _timing_epochs(told: Path) -> Callable[[Session], None]:
    def loop(session: Session) -> None:
        speeds = []
        for _ in session.epochs():
            began = perf_counter()
            for rows in session.batches():
                session.step(session.loss(session.forward(rows.numeric, rows.codes), rows.labels))
            speeds.append(session.plan.steps * session.plan.rows_per_step / (perf_counter() - began))
        if session.rank == 0:
            told.write_text(json.dumps(speeds))

    return loop


def _together(session: Session) -> None:
    if session.size > 1:
        dist.barrier()
