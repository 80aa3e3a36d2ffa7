"""Images, a network of the user's own, classes: trained on two workers and served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mlplat
from examples import digits


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_digits_are_recognised_and_the_endpoint_says_which(
    ray_cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert digits.main(tmp_path / "home", compute="cpu:2", serve=True) >= 0.93
    finally:
        with mlplat.connect(tmp_path / "home") as platform:
            platform.undeploy("digits")
    assert "8 is 8" in capsys.readouterr().out
