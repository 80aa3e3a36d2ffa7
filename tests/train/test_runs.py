"""The same call finds its run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplat.errors import Conflict
from mlplat.train.runs import claimed


def test_a_run_that_was_begun_is_found_by_the_same_call_alone(tmp_path: Path) -> None:
    with claimed(tmp_path, {"seed": 0}) as folder:
        assert folder.run_id is None
        folder.begin("r1")
        (folder.path / "checkpoints").mkdir()
    with claimed(tmp_path, {"seed": 1}) as folder:
        assert folder.run_id is None
    with claimed(tmp_path, {"seed": 0}) as folder:
        assert folder.run_id == "r1"
        folder.forget()
        assert folder.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with (
        claimed(tmp_path, {"seed": 0}),
        pytest.raises(Conflict, match="another process is running this very training"),
        claimed(tmp_path, {"seed": 0}),
    ):
        pass


def test_a_torn_record_is_a_run_that_was_not_begun(tmp_path: Path) -> None:
    with claimed(tmp_path, {}) as folder:
        (folder.path / "run.json").write_text('{"run')
        assert folder.run_id is None
