"""What a model was made of."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mlplat.testing.learnable import learnable
from mlplat.train import lineage


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_data_features_and_packages_are_named(tmp_path: Path) -> None:
    found = lineage.tags(learnable(tmp_path, rows=50), folder=tmp_path)
    assert found["snapshot"] == "made-0-50"
    assert found["feature.v"] == "1"
    assert found["data.made"] == "1"
    assert json.loads(found["packages"])["torch"].startswith("2.")
    assert all(isinstance(value, str) for value in found.values())


def test_a_commit_is_named_and_whether_the_code_differs_from_it(tmp_path: Path) -> None:
    data = learnable(tmp_path / "data", rows=50)
    code = tmp_path / "code"
    code.mkdir()
    assert "git_commit" not in lineage.tags(data, folder=code)
    _git(code, "init", "--quiet")
    (code / "net.py").write_text("x = 1\n")
    _git(code, "add", ".")
    _git(code, "commit", "--quiet", "-m", "first")
    clean = lineage.tags(data, folder=code)
    (code / "net.py").write_text("x = 2\n")
    dirty = lineage.tags(data, folder=code)
    assert clean["git_commit"] == dirty["git_commit"] == _git(code, "rev-parse", "HEAD")
    assert (clean["git_dirty"], dirty["git_dirty"]) == ("false", "true")
