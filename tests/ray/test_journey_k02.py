"""The journey with a long-running feature runs whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from examples.journeys import k02_long_running_feature as k02


@pytest.mark.ray
def test_a_long_running_feature_is_made_once_and_used_by_two_models(
    ray_cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k02.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert re.search(r"stopped: cancelled at [\d,]+ of 8,000 rows", said)
    assert f"is done: tone@{k02.tone.version} is the current version" in said
    assert said.count(f"pinned to tone@{k02.tone.version}") == 2
    assert re.search(r"users of tone: models escalates@1, leaves@1; training sets", said)
    assert "online and offline are the same" in said
