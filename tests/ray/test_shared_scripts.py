"""The scripts that share a cluster with others, as they stand, in processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
@pytest.mark.alone
def test_everybody_has_a_share_by_weight_and_production_starts_at_once(tmp_path: Path) -> None:
    picture = tmp_path / "who.svg"
    command = [sys.executable, "-m", "examples.ten_tenants", "--seconds", "16", "--picture", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    started = re.search(r"production has 4 GPUs ([\d.]+) s after", done.stdout)
    assert started is not None, done.stdout
    assert float(started[1]) < 5  # a grace time: nobody had to be stopped hard
    shares = {
        name: (float(had), float(due))
        for name, had, due in re.findall(r"(\w+) .*: +([\d.]+)%, of +([\d.]+)%", done.stdout)
    }
    assert len(shares) == 10
    assert all(due / 3 < had < 2 * due for had, due in shares.values()), done.stdout
    assert "retraining" in picture.read_text()


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.alone
def test_trials_leave_the_endpoint_and_the_notebook_what_they_need(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.journeys.k14_many_trials_beside_an_endpoint", "--trials", "50"]
    done = subprocess.run([*command, "--home", str(tmp_path / "home")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "50 of 50 trials are recorded as done" in done.stdout
    core = re.search(r"ben has his core after ([\d.]+) s", done.stdout)
    assert core is not None, done.stdout
    assert float(core[1]) < 15  # a grace time: nothing had to be stopped hard
    apart = re.search(r"p99 beside / alone: ([\d.]+)", done.stdout)
    assert apart is not None
    assert float(apart[1]) < 5  # of few answers: 500 trials tell more
