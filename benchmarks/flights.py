"""The main job, judged: quality, parity, time and memory of `examples.flights` from an empty home."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._form import Row, against_bound, arguments, report

ROOT = Path(__file__).parents[1]
KEYS = (
    "auc",
    "auc_no_leak",
    "log_loss",
    "parity_features",
    "parity_max_abs_diff",
    "requests",
    "failed",
    "seconds",
    "peak_gib",
)


def main() -> None:
    args = arguments("flights", KEYS)
    report("flights", rows(run(quick=args.quick)), args)


def run(*, quick: bool) -> dict[str, Any]:
    """The figures that the job writes. Its output is passed on: it shows how far it is."""
    with tempfile.TemporaryDirectory(prefix="mlplat-bench-") as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "examples.flights", "--home", f"{folder}/home", "--json", str(figures)]
        subprocess.run([*command, *(["--quick"] if quick else [])], cwd=ROOT, check=True)
        found: dict[str, Any] = json.loads(figures.read_text())
    return found


def rows(found: dict[str, Any]) -> list[Row]:
    total = found["seconds"]["total"]
    return [
        against_bound("auc", "AUC, September to December", "", found["auc"], 0.745, at="least"),
        against_bound(
            "auc_no_leak", "the same: above this is a leak until shown otherwise", "", found["auc"], 0.80, at="most"
        ),
        against_bound("log_loss", "log loss, September to December", "nats", found["log_loss"], 0.43, at="most"),
        against_bound(
            "parity_features", "flights with other features online", "", found["parity_features"], 0, at="most"
        ),
        against_bound(
            "parity_max_abs_diff",
            "greatest difference in probability",
            "",
            found["parity_max_abs_diff"],
            1e-6,
            at="most",
        ),
        against_bound("requests", "requests replayed", "requests", found["requests"], 5000, at="least"),
        against_bound("failed", "requests failed", "requests", found["failed"], 0, at="most"),
        against_bound("seconds", "the whole job, installation left out", "s", total, 180, at="most"),
        against_bound("peak_gib", "memory of all its processes at most", "GiB", found["peak_gib"], 8, at="most"),
    ]


if __name__ == "__main__":
    main()
