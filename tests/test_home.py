"""The home's folder and its format."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlplat.errors import Corrupt, InvalidInput, Refused
from mlplat.home import FORMAT, home_format, home_id, open_home


def test_a_new_home_gets_the_present_format(tmp_path: Path) -> None:
    assert home_format(open_home(tmp_path / "a" / "b")) == FORMAT


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    open_home(tmp_path)
    before = (tmp_path / "home.json").stat().st_mtime_ns
    open_home(tmp_path)
    assert (tmp_path / "home.json").stat().st_mtime_ns == before


def test_a_home_has_an_id_of_its_own_that_stays(tmp_path: Path) -> None:
    one, other = open_home(tmp_path / "one"), open_home(tmp_path / "other")
    assert home_id(one) != home_id(other)
    assert home_id(open_home(one)) == home_id(one)


def test_processes_that_make_a_home_at_once_make_one(tmp_path: Path) -> None:
    def make(_: int) -> str:
        return home_id(open_home(tmp_path / "home"))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(16)))) == 1
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["home.json"]


def test_an_older_format_loses_its_online_store_once_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text(json.dumps({"format": 1}))
    for folder in ("online", "tables"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data").touch()
    assert home_format(open_home(tmp_path)) == FORMAT
    assert not (tmp_path / "online").exists()
    assert (tmp_path / "tables" / "data").exists()
    (tmp_path / "online").mkdir()
    identity = home_id(tmp_path)
    assert (home_id(open_home(tmp_path)), (tmp_path / "online").exists()) == (identity, True)


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
