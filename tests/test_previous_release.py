"""A home that the previous release made opens, wherever it was moved; its model answers as it did, and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

import mlplat
from mlplat.model import artifact
from mlplat.train.progress import Silent
from tests.cli.test_main import variables

KEPT = Path(__file__).parent / "fixtures" / "home_format_2.tar.gz"

pytestmark = pytest.mark.slow  # MLflow brings its tables up to date


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moved")
    with tarfile.open(KEPT) as packed:
        packed.extractall(folder, filter="data")
    return folder / "home"


def test_its_model_answers_as_it_did_and_another_one_is_trained_beside_it(home: Path) -> None:
    with mlplat.connect(home) as platform:
        gold = platform.gold("sold")
        kept = artifact.load(artifact.place(home, "sold", gold.digest), digest=gold.digest)
        assert kept.golden.difference(platform.load(gold)) <= 1e-6
        asked = pl.DataFrame({"shop": ["s1"], "at": [datetime(2024, 1, 20, tzinfo=UTC)], "size": [0.5]})
        assert 0 < platform.predict("sold", asked, time="at")["probability"][0] < 1
        (data,) = platform.features.training_sets()
        assert platform.train(kept.model.network, data, progress=Silent()).version.version == 2


def test_the_command_tells_what_is_known_of_it(home: Path) -> None:
    def said(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "mlplat.cli.main", *words, "--home", str(home)]
        ended = subprocess.run(command, env=variables(), capture_output=True, text=True, check=False, timeout=120)
        return ended.returncode, ended.stdout + ended.stderr

    code, board = said("models", "sold", "--json")
    assert code == 0
    assert json.loads(board)["gold"][0]["version"] == 1
    assert "sold@1  79270bf41ac8" in said("lineage", "sold")[1]
    code, told = said("reproduce", "sold@1")
    assert (code, told) == (2, "mlplat: version 1 of 'sold' was trained before records held what is needed\n")
