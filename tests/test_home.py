"""The home's folder and its format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlplat.errors import Corrupt, InvalidInput, Refused
from mlplat.home import FORMAT, home_format, open_home


def test_a_new_home_gets_the_present_format(tmp_path: Path) -> None:
    assert home_format(open_home(tmp_path / "a" / "b")) == FORMAT


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    open_home(tmp_path)
    before = (tmp_path / "home.json").stat().st_mtime_ns
    open_home(tmp_path)
    assert (tmp_path / "home.json").stat().st_mtime_ns == before


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(Refused, match="upgrade mlplat"):
        open_home(tmp_path)


def test_a_folder_with_other_things_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InvalidInput, match="other things"):
        open_home(tmp_path)


def test_a_file_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(InvalidInput, match="is a file"):
        open_home(tmp_path / "f")


def test_a_broken_stamp_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text("{")
    with pytest.raises(Corrupt, match="restore it"):
        open_home(tmp_path)
