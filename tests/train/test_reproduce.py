"""A model is made again from its record alone, to the bit; and where that fails the reasons are said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput, NotFound
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.metadata.port import ModelVersion
from mlplat.model import mlp
from mlplat.testing.learnable import stored
from mlplat.train.progress import Silent
from mlplat.train.reproduce import Reproduced, reproduce
from mlplat.train.run import Interrupted
from mlplat.train.science import Science
from mlplat.train.settings import Recovery, TrainSettings
from mlplat.train.trainer import train

SETTINGS = TrainSettings(batch_size=128, epochs=2, holdout_s=48 * 86_400, seed=3, recovery=Recovery(steps=50))
CLOCK = SystemClock()


def trained(home: Path, metadata: InMemoryMetadata, science: Science | None = None) -> ModelVersion:
    found = train(
        stored(home),
        science or Science(network=mlp((16,), dropout=0.1)),
        SETTINGS,
        demand=Demand.parse("cpu:0"),
        metadata=metadata,
        home=home,
        clock=CLOCK,
        progress=Silent(),
        code=home,
    )
    assert not isinstance(found, Interrupted)
    return found.version


def again(version: ModelVersion, home: Path, metadata: InMemoryMetadata, science: Science | None = None) -> Reproduced:
    return reproduce(version, science=science, metadata=metadata, home=home, clock=CLOCK, progress=Silent(), code=home)


@pytest.mark.slow
def test_the_record_is_enough_and_nothing_is_registered(tmp_path: Path) -> None:
    metadata = InMemoryMetadata()
    version = trained(tmp_path, metadata)
    found = again(version, tmp_path, metadata)
    assert found.same
    assert found.changed == ()
    assert "late@1 was made again: the weights are the same to the bit" in str(found)
    assert metadata.versions("late") == [version]
    assert metadata.run(found.run_id)["tags"]["reproduces"] == version.run_id
    assert metadata.run(found.run_id)["status"] == "FINISHED"


@pytest.mark.slow
def test_weights_that_differ_are_measured_and_what_changed_since_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = InMemoryMetadata()
    version = trained(tmp_path, metadata)
    monkeypatch.setattr("mlplat.train.lineage._machine", lambda: "another machine")
    monkeypatch.setattr("mlplat.train.lineage.installed", lambda: "torch==9.9\nnumpy==2.4.6")
    monkeypatch.setattr("mlplat.train.session.rng.seed", lambda number: None)
    found = again(version, tmp_path, metadata)
    assert found.difference > 0
    said = str(found)
    assert "late@1 was made again: weights differ by up to" in said
    assert "and is another machine" in said
    assert "torch==2.13.0" in said
    assert "and now torch==9.9" in said
    assert "pyarrow" in said


def bce(raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(raw[:, 0], labels)


def other(raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return bce(raw, labels) * 2


@pytest.mark.slow
def test_code_of_the_user_has_to_be_given_again_and_to_be_the_same(tmp_path: Path) -> None:
    metadata, science = InMemoryMetadata(), Science(network=mlp((16,)), loss=bce)
    version = trained(tmp_path, metadata, science)
    for given in (None, replace(science, loss=other), Science(network=mlp((16,)))):
        with pytest.raises(InvalidInput, match=r"the model was made with code of yours.*what differs is .*loss"):
            again(version, tmp_path, metadata, given)
    assert again(version, tmp_path, metadata, science).same


def test_what_was_never_recorded_is_said(tmp_path: Path) -> None:
    metadata = InMemoryMetadata()
    run_id = metadata.start_run("late", params={}, tags={})
    version = metadata.register("late", digest="d", path="", run_id=run_id)
    with pytest.raises(NotFound, match="version 1 of 'late' was trained before records held"):
        again(version, tmp_path, metadata)
