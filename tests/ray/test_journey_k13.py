"""Journey K13: scored in batch at 2 a.m., and the same model online later."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.journeys import k13_nightly_batch_then_online as journey


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_was_scored_at_night_is_what_the_endpoint_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journey.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "400 customers scored at 02:00 by version 1; again: 400" in said
    assert "the folder holds 400 rows, 400 customers" in said
    assert "the same model: True; of 400 answers online, 0 differ" in said
    ((night, now),) = re.findall(r"at night: (\d\.\d+), and after five more orders: (\d\.\d+)", said)
    assert now != night
