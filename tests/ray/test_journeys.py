"""The journeys of which a cluster is a part run whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from examples.journeys import k01_complex_feature_in_real_time as k01
from examples.journeys import k02_long_running_feature as k02
from examples.journeys import k03_replace_producer as k03
from examples.journeys import k07_tune_a_deployed_model as k07
from examples.journeys import k08_extend_a_new_gold as k08
from examples.journeys import k12_cpu_to_gpu as k12
from examples.journeys import k13_nightly_batch_then_online as k13

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_a_feature_over_windows_a_transform_and_the_request_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k01.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "is made of pace, reputation, spending" in said
    usual, odd, again = (float(p) for p in re.findall(r"fraud with probability (\d\.\d\d)", said))
    assert usual < 0.1 < odd
    assert again != odd
    assert "3 predictions asked again in batch: 0 had other features online" in said


def test_a_long_running_feature_is_made_once_and_used_by_two_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k02.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert re.search(r"stopped: cancelled at [\d,]+ of 8,000 rows", said)
    assert f"is done: tone@{k02.tone.version} is the current version" in said
    assert said.count(f"pinned to tone@{k02.tone.version}") == 2
    assert re.search(r"users of tone: models escalates@1, leaves@1; training sets", said)
    assert "online and offline are the same" in said


def test_the_producer_changes_and_nothing_else_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    k03.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "held: column 'temperature': its numbers are spread otherwise, PSI " in said
    assert "refused: source 'readings' is fed by 'collector', and this batch comes from 'gateway'" in said
    assert "taken: 3,000 rows are like the 10,080 newest ones in all 5 columns" in said
    assert "refused: source 'readings' is fed by 'gateway', and this batch comes from 'collector'" in said
    assert said.count("  yes: ") == 4
    assert "  NO: " not in said


def test_the_learning_rate_of_a_deployed_model_is_optimised_and_it_goes_on_answering(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k07.main(tmp_path / "home")
    said = capsys.readouterr().out
    now, best = (float(loss) for loss in re.findall(r"log loss ([\d.]+)\n", said))
    assert "as it is: learning rate 0.002" in said
    assert best < now
    assert "candidate: the loss is below gold's" in said
    assert re.search(r"version 1 answers, as before; version [234] is candidate", said)


def test_a_new_gold_is_extended_by_evidence_and_taken_back_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k08.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "version 2 learnt from 4,000 answers and what came of them" in said
    decided = [action for action in re.findall(r"^v2: (\w+): ", said, re.MULTILINE) if action != "hold"]
    assert decided == ["share", "share", "gold"]
    assert "version 2 is gold" in said
    assert "version 1 answers again" in said
    assert said.count(" was gold: ") == 3
    assert "by ann: the shop wants to see it first" in said


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_one_parameter_leads_from_this_process_to_workers_and_to_gpus(
    ray_cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = k12.main(tmp_path / "home")
    local, workers, gpu = found.values()
    assert local is not None
    assert workers is not None
    assert local.metrics["auc"] > 0.75
    assert workers.metrics["auc"] == pytest.approx(local.metrics["auc"], abs=0.02)
    if ray_cluster.total().get("GPU", 0):
        assert gpu is not None
        assert gpu.metrics["auc"] == pytest.approx(local.metrics["auc"], abs=0.02)
    else:
        assert gpu is None
        assert "gpu:1 can never run here: it asks for 1 GPU, and the whole cluster has 0" in capsys.readouterr().out


def test_what_was_scored_at_night_is_what_the_endpoint_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    k13.main(tmp_path / "home")
    said = capsys.readouterr().out
    assert "400 customers scored at 02:00 by version 1; again: 400" in said
    assert "the folder holds 400 rows, 400 customers" in said
    assert "the same model: True; of 400 answers online, 0 differ" in said
    ((night, now),) = re.findall(r"at night: (\d\.\d+), and after five more orders: (\d\.\d+)", said)
    assert now != night
