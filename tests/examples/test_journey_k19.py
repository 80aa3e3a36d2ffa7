"""Journey K19: people hear of trainings that finish, fail and stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.journeys import k19_get_notified as journey


@pytest.mark.slow
def test_the_channel_hears_how_each_training_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    journey.main(tmp_path / "home")
    said, progress = capsys.readouterr()
    assert "notify Slack('127.0.0.1')" in said
    assert "*mlplat: training 'fails' finished*\n    Version 1 of 'fails', in " in said
    assert "*mlplat: training 'fails' failed*\n    InvalidInput: the loss became " in said
    assert "Try a learning_rate below 1e+35." in said
    assert "*mlplat: training 'fails' was stopped*\n" in said
    assert "version 2 is there all the same" in said
    assert "Slack was not notified: 127.0.0.1 cannot be reached: " in progress
    assert "secret" not in said + progress
