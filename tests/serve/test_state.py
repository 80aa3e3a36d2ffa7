from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlplat.errors import Corrupt
from mlplat.serve import state
from mlplat.serve.state import Entry


def entry(name: str = "late", version: int = 1) -> Entry:
    return Entry(name=name, version=version, digest="d", path="/m", url="http://127.0.0.1:1", cluster="c")


def test_a_home_that_serves_nothing_reads_as_empty(tmp_path: Path) -> None:
    assert state.read(tmp_path) == {}


def test_every_change_of_a_name_has_a_higher_epoch(tmp_path: Path) -> None:
    assert [state.put(tmp_path, entry(version=v)).epoch for v in (1, 2, 1)] == [1, 2, 3]
    assert state.put(tmp_path, entry("other")).epoch == 1
    assert {name: found.version for name, found in state.read(tmp_path).items()} == {"late": 1, "other": 1}


def test_a_change_can_be_undone(tmp_path: Path) -> None:
    before = state.put(tmp_path, entry())
    state.put(tmp_path, entry(version=2))
    state.restore(tmp_path, "late", before)
    assert state.read(tmp_path) == {"late": before}
    state.remove(tmp_path, "late")
    state.remove(tmp_path, "late")
    assert state.read(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"late": {"name": "late"}}'])
def test_a_torn_record_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "endpoints.json").write_text(content)
    with pytest.raises(Corrupt, match=r"endpoints\.json"):
        state.read(tmp_path)


def test_two_processes_lose_no_change(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from mlplat.serve import state
for i in range(50):
    entry = state.Entry(name=f"{sys.argv[2]}{i}", version=1, digest="d", path="/m", url="u", cluster="c")
    state.put(Path(sys.argv[1]), entry)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("a", "b")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert len(state.read(tmp_path)) == 100
