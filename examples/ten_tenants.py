"""Ten people share eight GPUs, and then a production model must be retrained at once.

`python -m examples.ten_tenants [--home DIR] [--seconds 30] [--picture FILE]`. The GPUs are logical: any machine will do. Each of
the ten always has more to do than there is room for; ann and ben have twice the weight of the others. Half way through the
retraining asks for four GPUs, gets them within a second or two, and everybody who gave way goes on where they were. The picture
shows who held what when.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import polars as pl
import ray

import mlplat
from mlplat.jobs import GaveWay, Jobs, Lease, Policy, Rules, Tenant

GPUS = 8
PEOPLE = ("ann", "ben", "cleo", "dan", "eva", "finn", "gus", "hana", "ivo", "jan")
WEIGHTS = {name: 2.0 if name in {"ann", "ben"} else 1.0 for name in PEOPLE}
AT_ONCE = 2
"""Jobs that each has in the queue at a time."""


def explore(jobs: Jobs, seconds: float, over: threading.Event) -> None:
    """One experiment after the other. A real one would train here, and make a checkpoint before it gives way."""

    def work(lease: Lease) -> None:
        nonlocal left_s
        while left_s > 0 and not over.is_set():
            if lease.stop():
                raise GaveWay
            over.wait(0.05)
            left_s -= 0.05

    while not over.is_set():
        left_s = seconds
        jobs.run(work, "gpu:1", name="experiment", priority="explore", min_run_s=1.0)


def main(home: Path, seconds: float, picture: Path) -> None:
    if not ray.is_initialized():
        ray.init("local", num_gpus=GPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    with ExitStack() as stack:
        operator = stack.enter_context(mlplat.connect(home, tenant="production"))
        tenants = {name: Tenant(name=name, weight=weight) for name, weight in WEIGHTS.items()}
        operator.jobs.set_rules(Rules(tenants=tenants, policy=Policy(slice_s=4.0), grace_s=5.0))
        over = threading.Event()
        threads = [
            threading.Thread(
                target=explore, args=(stack.enter_context(mlplat.connect(home, tenant=name)).jobs, 2.0 + i / 2, over)
            )
            for i, name in enumerate(PEOPLE)
            for _ in range(AT_ONCE)
        ]
        for thread in threads:
            thread.start()
        over.wait(seconds / 2)
        began = perf_counter()
        with operator.jobs.lease("gpu:4", name="retrain", priority="production"):
            print(f"production has 4 GPUs {perf_counter() - began:.1f} s after it asked, on a full cluster")
            over.wait(seconds / 10)
        over.wait(seconds / 2)
        over.set()
        for thread in threads:
            thread.join()
        held = operator.jobs.held()
        shares(held)
        print(f"\nwho held what when: {operator.jobs.draw(picture, title='eight GPUs, ten people, and a retraining')}")


def shares(held: pl.DataFrame) -> None:
    """What each had, beside what the weights say."""
    spent = held.with_columns(
        seconds=(pl.col("ended") - pl.col("began")).dt.total_milliseconds() / 1e3 * pl.col("workers")
    )
    by = dict(spent.group_by("tenant").agg(pl.col("seconds").sum()).iter_rows())
    total, weights = sum(by.get(name, 0.0) for name in PEOPLE), sum(WEIGHTS.values())
    for name in PEOPLE:
        own = by.get(name, 0.0)
        print(f"{name:6} {own:6.1f} GPU-seconds: {own / total:5.1%}, of {WEIGHTS[name] / weights:5.1%}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--picture", type=Path, default=Path("ten_tenants.png"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        main(given.home or Path(folder) / "home", given.seconds, given.picture)
