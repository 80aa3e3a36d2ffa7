"""The controller: facts from real artifacts, decisions in the ledger, aliases that move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlplat.clock import SystemClock
from mlplat.decision import Act, Hold
from mlplat.errors import InvalidInput, Refused
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.metadata.port import ModelVersion
from mlplat.model import mlp
from mlplat.testing.learnable import learnable
from mlplat.train.progress import Silent
from mlplat.train.promotion import promote
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.trainer import TrainedModel, train

CLOCK = SystemClock()
SETTINGS = TrainSettings(batch_size=128, epochs=3, learning_rate=1e-2, holdout_s=48 * 86_400)


def _train(data: TrainingSet, home: Path, metadata: InMemoryMetadata, **changes: float) -> ModelVersion:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    here = Demand.parse("cpu:0")
    trained = train(
        data,
        Science(network=mlp((16,))),
        settings,
        demand=here,
        metadata=metadata,
        home=home,
        clock=CLOCK,
        progress=Silent(),
    )
    assert isinstance(trained, TrainedModel)
    return trained.version


@pytest.fixture
def metadata() -> InMemoryMetadata:
    return InMemoryMetadata()


@pytest.fixture
def data(tmp_path: Path) -> TrainingSet:
    return learnable(tmp_path / "data")


def test_the_first_good_version_becomes_candidate_and_gold(
    tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata
) -> None:
    version = _train(data, tmp_path, metadata)
    done = promote(version, data, home=tmp_path, metadata=metadata, clock=CLOCK, actor="ann")
    assert isinstance(done.decision, Act)
    assert done.decision.reason.startswith("no incumbent")
    assert done.aliases == ("candidate", "gold")
    assert metadata.alias("late", "gold") == metadata.alias("late", "candidate") == version
    (entry,) = metadata.decisions("late")
    assert (entry.policy, entry.actor, entry.decision) == ("model_promoter", "ann", done.decision)
    assert entry.details["version"] == 1
    assert entry.details["snapshot"] == data.snapshot
    assert entry.decision.evidence["rows"] == done.decision.evidence["rows"] > 500


def test_a_better_successor_becomes_candidate_and_gold_stays(
    tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata
) -> None:
    weak = _train(data, tmp_path, metadata, epochs=1, learning_rate=1e-3)
    promote(weak, data, home=tmp_path, metadata=metadata, clock=CLOCK, force=("ann", "to have one"))
    strong = _train(data, tmp_path, metadata)
    done = promote(strong, data, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Act)
    assert done.decision.evidence["incumbent"] == weak.version
    assert done.aliases == ("candidate",)
    assert metadata.alias("late", "gold") == weak
    assert metadata.alias("late", "candidate") == strong


def test_a_worse_successor_is_held_and_recorded(tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata) -> None:
    strong = _train(data, tmp_path, metadata)
    promote(strong, data, home=tmp_path, metadata=metadata, clock=CLOCK)
    weak = _train(data, tmp_path, metadata, epochs=1, learning_rate=1e-3)
    done = promote(weak, data, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Hold)
    assert done.aliases == ()
    assert metadata.alias("late", "candidate") == strong
    assert [type(entry.decision) for entry in metadata.decisions("late")] == [Act, Hold]


def test_noise_is_held(tmp_path: Path, metadata: InMemoryMetadata) -> None:
    noise = learnable(tmp_path / "noise", strength=0.0)
    version = _train(noise, tmp_path, metadata)
    done = promote(version, noise, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Hold)
    assert "best constant" in done.decision.reason
    assert metadata.alias("late", "gold") is None


def test_few_rows_are_held(tmp_path: Path, metadata: InMemoryMetadata) -> None:
    small = learnable(tmp_path / "small", rows=400)
    done = promote(_train(small, tmp_path, metadata), small, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Hold)
    assert "rows" in done.decision.reason


def test_an_artifact_with_changed_bytes_is_held_and_cannot_be_forced(
    tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata
) -> None:
    version = _train(data, tmp_path, metadata)
    weights = Path(version.path) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    done = promote(version, data, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Hold)
    assert "does not load" in done.decision.reason
    with pytest.raises(Refused, match="cannot be forced"):
        promote(version, data, home=tmp_path, metadata=metadata, clock=CLOCK, force=("ann", "hurry"))
    assert metadata.alias("late", "candidate") is None


def test_features_that_are_not_the_pinned_ones_are_held(
    tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata
) -> None:
    version = _train(data, tmp_path, metadata)
    other = replace(data, features=(replace(data.features[0], version="2"),))
    done = promote(version, other, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Hold)
    assert "signature" in done.decision.reason


def test_force_records_who_why_and_what_the_policy_said(tmp_path: Path, metadata: InMemoryMetadata) -> None:
    noise = learnable(tmp_path / "noise", strength=0.0)
    version = _train(noise, tmp_path, metadata)
    done = promote(version, noise, home=tmp_path, metadata=metadata, clock=CLOCK, force=("ann", "a demo"))
    assert isinstance(done.decision, Act)
    assert done.aliases == ("candidate", "gold")
    (entry,) = metadata.decisions("late")
    assert entry.actor == "ann"
    assert entry.decision.reason == "forced by ann: a demo"
    assert str(entry.decision.evidence["policy_said"]).startswith("hold: ")
    with pytest.raises(InvalidInput, match="both"):
        promote(version, noise, home=tmp_path, metadata=metadata, clock=CLOCK, force=("ann", ""))


def test_a_version_without_a_run_cannot_be_judged(
    tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata
) -> None:
    version = metadata.register("late", digest="d", path=str(tmp_path), run_id="none")
    with pytest.raises(InvalidInput, match="never saw"):
        promote(version, data, home=tmp_path, metadata=metadata, clock=CLOCK)
