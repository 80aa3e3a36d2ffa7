"""Ctrl-C in a process that waits."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

WAITS = """
import sys
from concurrent.futures import Future

import mlplat
import polars as pl

with mlplat.connect(sys.argv[1]):
    pl.LazyFrame({"x": [1]}).sum().collect()
    sys.stdout.write("waits\\n")
    sys.stdout.flush()
    Future().result()
"""


@pytest.mark.slow
def test_ctrl_c_wakes_who_waits_for_a_result_on_an_open_platform(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITS, str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt")
