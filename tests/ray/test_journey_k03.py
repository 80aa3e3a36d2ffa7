"""Journey K3: the producer of a source is replaced under a view, a model and an endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.journeys import k03_replace_producer as journey


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_producer_changes_and_nothing_else_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journey.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "held: column 'temperature': its numbers are spread otherwise, PSI " in said
    assert "refused: source 'readings' is fed by 'collector', and this batch comes from 'gateway'" in said
    assert "taken: 3,000 rows are like the 10,080 newest ones in all 5 columns" in said
    assert "refused: source 'readings' is fed by 'gateway', and this batch comes from 'collector'" in said
    assert said.count("  yes: ") == 4
    assert "  NO: " not in said
