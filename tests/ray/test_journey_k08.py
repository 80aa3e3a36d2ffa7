"""Journey K8: a new gold model is extended to everybody, step by step and by evidence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.journeys import k08_extend_a_new_gold as journey


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_new_gold_is_extended_by_evidence_and_taken_back_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journey.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "version 2 learnt from 4,000 answers and what came of them" in said
    decided = [action for action in re.findall(r"^v2: (\w+): ", said, re.MULTILINE) if action != "hold"]
    assert decided == ["share", "share", "gold"]
    assert "version 2 is gold" in said
    assert "version 1 answers again" in said
    assert said.count(" was gold: ") == 3
    assert "by ann: the shop wants to see it first" in said
