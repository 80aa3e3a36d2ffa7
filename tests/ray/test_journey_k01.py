"""Journey K1: a complex feature is written once and served in real time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.journeys import k01_complex_feature_in_real_time as journey


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_feature_over_windows_a_transform_and_the_request_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journey.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "is made of pace, reputation, spending" in said
    usual, odd, again = (float(p) for p in re.findall(r"fraud with probability (\d\.\d\d)", said))
    assert usual < 0.1 < odd
    assert again != odd
    assert "3 predictions asked again in batch: 0 had other features online" in said
