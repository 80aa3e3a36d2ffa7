"""A cluster of ten thousand own machines and its work, tried in shards: `python -m benchmarks._burst.large`.

With --folder it writes the two files instead, for `mlplat cluster simulate large.yaml --trace large.csv --shards 250`."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import psutil
import yaml
from rich.progress import Progress

from benchmarks._burst.simulated import completion_s
from mlplat.cluster.shards import simulate
from mlplat.cluster.trace import read
from mlplat.testing import lab

SEED = 5
HEADER = "at_s,bundles,work_s,GPU,CPU,tenant"


def config(machines: int) -> dict[str, Any]:
    """Own machines of a GPU each, and as many that can be bought."""
    given = lab.config()
    given["max_workers"] = 2 * machines
    given["provider"]["burst"] = {"wait_s": 1_800}
    own, bought = (given["available_node_types"][name] for name in ("onprem.gpu", "cloud.gpu"))
    own["node_config"] = {"hosts": [f"gpu{number}" for number in range(machines)]}
    own |= {"resources": {"CPU": 8, "GPU": 1}, "min_workers": machines, "max_workers": machines}
    bought |= {"resources": {"CPU": 8, "GPU": 1}, "max_workers": machines, "idle_timeout_s": 30}
    return given


def trace(jobs: int, hours: float) -> list[str]:
    """Lines of jobs of one to eight GPUs and ten minutes to two hours, of twenty tenants, who come within some hours."""
    draw, lines = Random(SEED), [HEADER]
    for at_s in sorted(round(draw.uniform(0, hours * 3_600)) for _ in range(jobs)):
        gpus, work_s = draw.choice([1, 1, 2, 4, 8]), draw.randrange(600, 7_200, 600)
        lines.append(f"{at_s},{gpus},{work_s},1,4,team-{draw.randrange(20)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, number in (
        ("machines", 10_000),
        ("jobs", 1_000),
        ("shards", 250),
        ("processes", psutil.cpu_count() or 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = asked.folder or Path(place)
        (folder / "large.yaml").write_text(yaml.safe_dump(config(asked.machines), sort_keys=False))
        (folder / "large.csv").write_text("\n".join(trace(asked.jobs, asked.hours)) + "\n")
        if asked.folder is None:
            tried(config(asked.machines), folder / "large.csv", asked.shards, asked.processes)


def tried(given: dict[str, Any], file: Path, shards: int, processes: int) -> None:
    arrivals, began = read(file), perf_counter()
    with Progress() as progress:
        task = progress.add_task("shards", total=shards)
        found = simulate(given, arrivals, shards=shards, processes=processes, done=lambda: progress.advance(task))
    took_s = perf_counter() - began
    wait_s = sum(found.began_us[one.job.id] - one.job.submitted_us for one in arrivals) / len(arrivals) / 1e6
    print(
        f"{len(arrivals)} jobs in {shards} shards: {took_s:.0f} s with {processes} processes, {found.ticks} looks; "
        f"{found.gpu_hours:.1f} GPU-hours bought for {found.cost:.1f}, mean wait {wait_s / 60:.2f} min, mean time to the end "
        f"{completion_s(arrivals, found) / 60:.2f} min, {found.moved} moves, {found.misplaced} misplaced"
    )


if __name__ == "__main__":
    main()
