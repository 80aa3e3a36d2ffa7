"""The journeys that need no Ray run whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.journeys import k06_discover_an_architecture as k06
from examples.journeys import k10_inspect_versions as k10
from examples.journeys import k17_rebuild_a_model as k17
from examples.journeys import k19_get_notified as k19

pytestmark = pytest.mark.slow  # seconds each


def test_a_better_architecture_is_found_for_the_network_in_production(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k06.main(tmp_path / "home")
    said = capsys.readouterr().out
    by_hand, found = (float(loss) for loss in re.findall(r"version \d, log loss ([\d.]+)", said))
    assert found < by_hand - 0.05
    assert "architectures: 16 tried" in said
    assert "candidate: the loss is below gold's" in said
    assert "in production is still version 1" in said


def test_every_version_of_models_features_and_signatures_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k10.main(tmp_path / "home")
    said = capsys.readouterr().out
    used = dict(re.findall(r"peaks@(\d) reads load@(\w+)", said))
    assert used.keys() == {"1", "2"}
    for version, features in (("1", "mean_load_6h"), ("2", "mean_load_6h, mean_load_24h")):
        assert f"load@{used[version]}: {features}; used by model peaks@{version}" in said
    assert said.count("a caller sends plant: string forecast: float64 season: string") == 2
    assert "gold        [GoldPeriod(version=1," in said


def test_the_good_model_of_two_months_ago_is_found_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k17.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "version 2: held; the goal is auc of at least 0.7" in said
    assert "version 3: held; the loss is not below gold" in said
    assert "gold on 03 May: version 1; why: no incumbent" in said
    assert re.search(r"renews@1  \w{12}  run \w{32}\ndata      6,000 rows, snapshot \w+\nfeature   riding@", said)
    assert "renews@1 was made again: the weights are the same to the bit" in said


def test_the_channel_hears_how_each_training_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    k19.main(tmp_path / "home")
    said, progress = capsys.readouterr()
    assert "notify Slack('127.0.0.1')" in said
    assert "*mlplat: training 'fails' finished*\n    Version 1 of 'fails', in " in said
    assert "*mlplat: training 'fails' failed*\n    InvalidInput: the loss became " in said
    assert "Try a learning_rate below 1e+35." in said
    assert "*mlplat: training 'fails' was stopped*\n" in said
    assert "version 2 is there all the same" in said
    assert "Slack was not notified: 127.0.0.1 cannot be reached: " in progress
    assert "secret" not in said + progress
