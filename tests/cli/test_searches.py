"""`mlplat searches`: all of them, and the leaderboard of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mlplat
from mlplat import space
from mlplat.train.search import Grid, Running
from tests.cli.test_main import mlplat as command

pytestmark = pytest.mark.slow


def falling(made: Any, trial: Running) -> float:
    if made["x"] == 2:
        raise ZeroDivisionError("by the user")
    return float(made["x"])


def test_searches_are_listed_and_one_shows_its_trials_best_first(tmp_path: Path) -> None:
    with mlplat.connect(tmp_path / "home") as platform:
        platform.search(
            {"x": space.integer(0, 3)}, falling, name="xs", trials=4, compute="cpu:0", strategy=Grid(), seed=1
        )
    shown = command("searches", "--home", "home", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[2:] == [
        "  search  done  running  stopped  failed  goal  best  trial",
        "  xs      3     0        0        1       loss  0     0",
    ]
    board = command("searches", "xs", "--home", "home", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[:4] for line in board[3:]] == [
        ["0", "done", "0", "0"],
        ["1", "done", "1", "1"],
        ["3", "done", "3", "3"],
        ["2", "failed", "-", "2"],
    ]
    assert board[-1].endswith("ZeroDivisionError: by the user")
    found = json.loads(command("searches", "xs", "--json", "--home", "home", cwd=tmp_path).stdout)
    assert [row["params.x"] for row in found] == [0, 1, 3, 2]
    absent = command("searches", "ys", "--home", "home", cwd=tmp_path)
    assert (absent.returncode, absent.stderr) == (2, "mlplat: There is no search 'ys'. Did you mean 'xs'?\n")
