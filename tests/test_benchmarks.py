"""Benchmarks give the form that their readers rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import flights
from benchmarks._form import against_bound

ROOT = Path(__file__).parents[1]
FIELDS = {"key", "measure", "unit", "ours", "reference", "reference_name", "ratio", "bound", "holds"}


def test_a_figure_that_could_not_be_measured_does_not_hold() -> None:
    for nothing in (None, float("nan")):
        assert not against_bound("k", "m", "s", nothing, 1.0, at="most").holds


def test_a_bound_is_kept_or_not() -> None:
    assert against_bound("k", "m", "s", 1.0, 1.0, at="most").holds
    assert not against_bound("k", "m", "s", 1.1, 1.0, at="most").holds
    assert against_bound("k", "m", "s", 1.0, 1.0, at="least").holds
    assert not against_bound("k", "m", "s", 0.9, 1.0, at="least").holds


@pytest.mark.ray
def test_the_flights_benchmark_has_its_keys_in_quick(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.flights", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["benchmark"] == "flights"
    assert [row["key"] for row in found["rows"]] == list(flights.KEYS)
    assert all(row.keys() == FIELDS for row in found["rows"])
    by_key = {row["key"]: row for row in found["rows"]}
    assert by_key["parity_features"]["holds"]
    assert by_key["failed"]["holds"]
