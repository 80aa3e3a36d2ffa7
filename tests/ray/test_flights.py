"""The main job killed with kill -9 in the middle of its replay goes on, on the same home, as if nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def job(home: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-u",
        "-m",
        "examples.flights",
        "--quick",
        "--compute",
        "cpu:0",
        "--home",
        str(home),
        *more,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.soak
@pytest.mark.ray
def test_a_killed_job_goes_on_with_its_home(tmp_path: Path) -> None:
    home, figures = tmp_path / "home", tmp_path / "figures.json"
    with job(home) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("replay"):
                break
        # Some of the events were pushed, and some of the flights asked, when there is a file of the log.
        while not list((home / "log" / "late").glob("*.parquet")):
            assert first.poll() is None
        first.send_signal(signal.SIGKILL)

    with job(home, "--json", str(figures)) as second:
        said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert "is gold here already" in said
    found = json.loads(figures.read_text())
    assert found["failed"] == 0
    assert found["parity_features"] == 0
    assert found["parity_max_abs_diff"] <= 1e-6
    # What was answered within the last second before the kill may be missing from the log: no more than that. Flights of the
    # moment of the kill, where nothing had happened since the moment before, are asked about again.
    assert 600 <= found["requests"] <= 705 + 5

    again = [sys.executable, "-m", "mlplat.cli.main", "reproduce", "late", "--home", str(home)]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the weights are the same to the bit" in done.stdout
