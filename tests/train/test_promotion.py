"""The controller: facts from real artifacts, decisions in the ledger, aliases that move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlplat.clock import SystemClock
from mlplat.decision import Act, Hold
from mlplat.errors import InvalidInput, Refused
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.metadata.port import ModelVersion
from mlplat.model import mlp
from mlplat.testing.learnable import learnable, write
from mlplat.train.evaluate import log_loss
from mlplat.train.measure import Candidate
from mlplat.train.progress import Silent
from mlplat.train.promotion import promote
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.trainer import TrainedModel, train

pytestmark = pytest.mark.slow

CLOCK = SystemClock()
SETTINGS = TrainSettings(batch_size=128, epochs=3, learning_rate=1e-2, holdout_s=48 * 86_400)


def _train(data: TrainingSet, home: Path, metadata: InMemoryMetadata, **changes: Any) -> ModelVersion:
    return _trained(data, home, metadata, **changes).version


def _trained(
    data: TrainingSet, home: Path, metadata: InMemoryMetadata, *, final: bool = False, **changes: Any
) -> TrainedModel:
    settings = replace(SETTINGS, **changes)
    here = Demand.parse("cpu:0")
    trained = train(
        data,
        Science(network=mlp((16,))),
        settings,
        final=final,
        demand=here,
        metadata=metadata,
        home=home,
        clock=CLOCK,
        progress=Silent(),
    )
    assert isinstance(trained, TrainedModel)
    return trained


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


def test_gold_is_compared_on_rows_that_neither_has_seen(
    tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata
) -> None:
    """Gold learnt from more of the rows than its successor did."""
    gold = _train(data, tmp_path, metadata, holdout_s=20 * 86_400, epochs=1)
    promote(gold, data, home=tmp_path, metadata=metadata, clock=CLOCK, force=("ann", "to have one"))
    done = promote(_train(data, tmp_path, metadata), data, home=tmp_path, metadata=metadata, clock=CLOCK)
    evidence = done.decision.evidence
    assert isinstance(evidence["compared"], int)
    assert isinstance(evidence["rows"], int)
    assert 200 < evidence["compared"] < 0.6 * evidence["rows"]


def test_a_leak_is_held_however_good_it_looks(tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata) -> None:
    table = data.table()
    leaking = table.set_column(table.column_names.index("v.x0"), "v.x0", table["label"].cast("double"))
    told = write(
        leaking, data.path.with_name("told.arrow"), name="late", snapshot="told", request=data.request,
        features=data.features[0].fields,
    )  # fmt: skip
    done = promote(_train(told, tmp_path, metadata), told, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Hold)
    assert "input 'v.x0' alone tells the label (1.0000 of 1): a leak" in done.decision.reason


def test_tests_of_the_users_own_can_hold_and_see_what_the_policy_sees(
    tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata
) -> None:
    version, seen = _train(data, tmp_path, metadata), list[Candidate]()

    def flags_are_fair(candidate: Candidate) -> str | None:
        seen.append(candidate)
        return "flagged rows get higher probabilities"

    def broken(candidate: Candidate) -> str | None:
        raise KeyError("age")

    def content(candidate: Candidate) -> str | None:
        return None

    done = promote(
        version, data, home=tmp_path, metadata=metadata, clock=CLOCK, tests=[content, flags_are_fair, broken]
    )
    assert isinstance(done.decision, Hold)
    assert done.decision.reason == "flags_are_fair: flagged rows get higher probabilities"
    assert done.decision.evidence["test.content"] == "ok"
    assert done.decision.evidence["test.broken"] == "broken: raised KeyError: 'age'"
    (candidate,) = seen
    assert (
        len(candidate.labels) == len(candidate.predictions) == candidate.rows.num_rows == done.decision.evidence["rows"]
    )
    assert candidate.gold is None


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_other_tasks_are_judged_too(tmp_path: Path, metadata: InMemoryMetadata, kind: Any) -> None:
    data = learnable(tmp_path / "data")
    table = data.table()
    value = table["v.x0"].to_numpy() + table["v.x1"].to_numpy()
    labels = pa.array(value) if kind == "regression" else pa.array(np.digitize(value, [-0.7, 0.7]).astype(str))
    other = write(
        table.set_column(table.column_names.index("label"), "label", labels), data.path.with_name("other.arrow"),
        name="late", snapshot=kind, request=data.request, features=data.features[0].fields,
    )  # fmt: skip
    weak = _train(other, tmp_path, metadata, task=kind, epochs=1)
    done = promote(weak, other, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Act), done.decision.reason
    strong = _train(other, tmp_path, metadata, task=kind, epochs=6, seed=1)
    done = promote(strong, other, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(done.decision, Act), done.decision.reason
    assert done.decision.evidence["versus_high"] < 0  # type: ignore[operator]


def test_a_final_model_is_judged_by_the_one_that_did_not_learn_from_the_rows(
    tmp_path: Path, data: TrainingSet, metadata: InMemoryMetadata
) -> None:
    final = _trained(data, tmp_path, metadata, final=True)
    assert final.evaluated is not None
    seen: list[Candidate] = []

    def look(candidate: Candidate) -> None:
        seen.append(candidate)

    first = promote(final.version, data, home=tmp_path, metadata=metadata, clock=CLOCK, tests=[look])
    assert isinstance(first.decision, Act)
    evidence = first.decision.evidence
    assert evidence["log_loss"] == pytest.approx(final.metrics["log_loss"], abs=1e-6)
    assert evidence["test.refit"] == "ok"
    own = final.model.predict(seen[0].rows)["probability"]
    assert seen[0].model.digest == final.evaluated.digest
    assert np.array_equal(seen[0].model.predict(seen[0].rows)["probability"], seen[0].predictions)
    assert evidence["refit_loss"] == pytest.approx(log_loss(seen[0].labels, own))
    assert evidence["refit_loss"] < evidence["loss"]
    assert metadata.alias("late", "gold") == final.version

    again = _trained(data, tmp_path, metadata, epochs=1, learning_rate=1e-4)
    held = promote(again.version, data, home=tmp_path, metadata=metadata, clock=CLOCK)
    assert isinstance(held.decision, Hold)
    rows = int(held.decision.evidence["rows"])
    assert held.decision.evidence["compared"] == rows  # gold has seen them, but not the one that is judged for it
    assert held.decision.evidence["incumbent_loss"] == pytest.approx(final.metrics["log_loss"], abs=1e-6)
