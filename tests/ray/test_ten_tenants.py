"""Ten people, eight logical GPUs, a retraining that cannot wait: the script as it stands, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
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
