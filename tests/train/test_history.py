"""What is told of a model: where it comes from, when it was gold, and how it stands among the others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import orjson
import pytest

from mlplat.decision import Act, Hold
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.metadata.port import Goal, LedgerEntry, ModelVersion
from mlplat.train.history import gold_history, leaderboard, lineage_of
from tests.train.test_reproduce import trained


def registered(metadata: InMemoryMetadata, **metrics: float) -> ModelVersion:
    run_id = metadata.start_run("late", params={}, tags={})
    metadata.log_metrics(run_id, {f"best_{name}": value for name, value in metrics.items()})
    return metadata.register("late", digest=f"d{len(metadata.versions('late'))}", path="", run_id=run_id)


def decided(metadata: InMemoryMetadata, version: ModelVersion, at_us: int, *aliases: str, act: bool = True) -> None:
    decision = Act(reason="better") if act else Hold(reason="worse")
    details = {**asdict(version), "aliases": list(aliases)}
    metadata.record(
        LedgerEntry(at_us=at_us, policy="p", subject="late", decision=decision, actor="ann", details=details)
    )


@pytest.mark.slow
def test_the_lineage_of_a_model_names_everything_it_was_made_of(tmp_path: Path) -> None:
    metadata = InMemoryMetadata()
    version = trained(tmp_path, metadata)
    decided(metadata, version, 1_700_000_000_000_000, "candidate", act=False)
    found = lineage_of(version, metadata)
    assert found.snapshot == "made-0-4000"
    assert found.features == {"v": "1"}
    assert found.sources == {"made": 1}
    assert found.settings["seed"] == 3
    assert found.compute == "cpu:0"
    assert any(line.startswith("torch==2.") for line in found.packages)
    assert found.metrics["best_auc"] > 0.5
    said = str(found)
    for words in (
        "late@1",
        "snapshot made-0-4000",
        "feature   v@1",
        "source    made, table version 1",
        "hold by ann: worse",
    ):
        assert words in said
    assert orjson.loads(orjson.dumps(found.to_json()))["decisions"][0]["reason"] == "worse"


def test_a_version_without_a_record_has_a_lineage_of_what_is_known() -> None:
    metadata = InMemoryMetadata()
    assert "unknown" in str(lineage_of(registered(metadata), metadata))


def test_gold_is_told_by_periods() -> None:
    metadata = InMemoryMetadata()
    first, second = registered(metadata), registered(metadata)
    decided(metadata, first, 10, "candidate", "gold")
    decided(metadata, second, 20, "candidate")
    decided(metadata, second, 30, act=False)
    decided(metadata, second, 40, "gold")
    periods = gold_history("late", metadata)
    assert [(p.version, p.since_us, p.until_us) for p in periods] == [(1, 10, 40), (2, 40, None)]
    assert periods[0].reason == "better"


def test_the_best_version_by_the_goal_stands_first() -> None:
    metadata = InMemoryMetadata()
    for auc, log_loss in ((0.7, 0.5), (0.8, 0.6), (0.75, 0.4)):
        registered(metadata, auc=auc, log_loss=log_loss)
    registered(metadata)
    metadata.set_alias("late", "gold", 2)
    assert leaderboard("late", metadata)["version"].to_list() == [3, 1, 2, 4]
    metadata.set_goal("late", Goal(metric="auc", direction="max", target=0.75))
    found = leaderboard("late", metadata)
    assert found["version"].to_list() == [2, 3, 1, 4]
    assert found["reached"].to_list() == [True, True, False, False]
    assert found["gold"].to_list() == [True, False, False, False]
    metadata.set_goal("late", Goal(metric="margin", direction="max"))
    assert leaderboard("late", metadata)["version"].to_list() == [4, 3, 2, 1]
