"""`mlplat cluster check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mlplat.cli.cluster import app
from mlplat.errors import InvalidInput
from tests.cluster.support import config


def checked(file: Path, *options: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["check", str(file), *options])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(config(per_day=100), sort_keys=False))
    return tmp_path / "lab.yaml"


def test_a_good_one_is_summed_up(file: Path) -> None:
    done = checked(file)
    assert done.exit_code == 0
    assert "lab: nothing is wrong" in done.stdout
    assert "spot a, then spot b, then on demand" in done.stdout
    assert "budget: per_day 100" in done.stdout


def test_what_is_wrong_has_its_line_and_a_limit_may_not_be_below_what_runs(file: Path) -> None:
    found = checked(file, "--running", "cloud.gpu=11").exception
    assert isinstance(found, InvalidInput)
    line = int(str(found).removeprefix(f"{file}:").partition(":")[0])
    assert file.read_text().splitlines()[line - 1].strip() == "max_workers: 10"
    assert isinstance(checked(file, "--running", "cloud.gpu").exception, InvalidInput)
