"""A folder that does not last is kept once for each content."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplat.jobs.code import digest, keep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "sent"
    (found / "lib").mkdir(parents=True)
    (found / "train.py").write_text("print(1)")
    (found / "lib" / "run.sh").write_text("true")
    return found


def test_the_same_content_is_kept_once_whatever_it_is_called(folder: Path, tmp_path: Path) -> None:
    first = keep(folder, tmp_path / "kept")
    assert (first / "train.py").read_text() == "print(1)"
    (first / "mark").touch()  # it is not copied again
    folder.rename(tmp_path / "other")
    assert keep(tmp_path / "other", tmp_path / "kept") == first
    assert (first / "mark").exists()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [first.name]  # no draft stays


def test_another_byte_name_or_right_is_another_content(folder: Path) -> None:
    known = {digest(folder)}
    (folder / "train.py").write_text("print(2)")
    known.add(digest(folder))
    (folder / "lib" / "run.sh").chmod(0o755)
    known.add(digest(folder))
    (folder / "train.py").rename(folder / "main.py")
    known.add(digest(folder))
    assert len(known) == 4


def test_what_git_and_python_keep_for_themselves_is_left_out(folder: Path, tmp_path: Path) -> None:
    before = digest(folder)
    for name in (".git", "__pycache__"):
        (folder / "lib" / name).mkdir()
        (folder / "lib" / name / "x").write_text("x")
    assert digest(folder) == before
    kept = keep(folder, tmp_path / "kept")
    assert sorted(path.name for path in kept.rglob("*")) == ["lib", "run.sh", "train.py"]
