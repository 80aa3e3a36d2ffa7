"""What every metadata store must do. Inherit `MetadataContract` in a test class and give it a `store` fixture."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlplat.decision import Act, Hold
from mlplat.errors import InvalidInput, NotFound, Unavailable
from mlplat.metadata.port import Goal, LedgerEntry, Metadata, ModelVersion


def entry(subject: str = "late", **changes: object) -> LedgerEntry:
    values: dict[str, object] = {
        "at_us": 1_700_000_000_000_000,
        "policy": "model_promoter",
        "subject": subject,
        "decision": Hold(reason="too few rows", evidence={"rows": 3, "auc": None, "ok": False}),
        "actor": "ann",
        "details": {"version": 1},
    }
    return LedgerEntry(**(values | changes))  # type: ignore[arg-type]


class MetadataContract:
    """The suite. Every test gets an empty `store`."""

    def test_a_run_keeps_its_params_tags_and_last_metrics(self, store: Metadata) -> None:
        run_id = store.start_run("late", params={"lr": 0.1, "layers": (8, 4)}, tags={"snapshot": "abc"})
        store.log_metrics(run_id, {"auc": 0.6, "log_loss": 0.7}, step=0)
        store.log_metrics(run_id, {"auc": 0.7}, step=1)
        store.end_run(run_id, status="FINISHED")
        assert store.run(run_id) == {
            "run_id": run_id,
            "name": "late",
            "status": "FINISHED",
            "params": {"lr": "0.1", "layers": "(8, 4)"},
            "metrics": {"auc": 0.7, "log_loss": 0.7},
            "tags": {"snapshot": "abc"},
        }

    def test_texts_of_any_length_stay_with_their_run(self, store: Metadata) -> None:
        one, other = (store.start_run("late", params={}, tags={}) for _ in range(2))
        long = "é\n" * 100_000
        store.put_texts(one, {"packages": long, "diff": ""})
        store.put_texts(other, {})
        assert store.texts(one) == {"packages": long, "diff": ""}
        assert store.texts(other) == {}
        for call in (lambda: store.texts("nope"), lambda: store.put_texts("nope", {"a": "b"})):
            with pytest.raises(NotFound, match="nope"):
                call()

    def test_a_character_that_a_database_cannot_hold_is_replaced(self, store: Metadata) -> None:
        run_id = store.start_run("late", params={"p": "a\0b"}, tags={"t": "\0"})
        store.put_texts(run_id, {"diff": "a\0b"})
        assert store.texts(run_id) == {"diff": "a\ufffdb"}
        assert (store.run(run_id)["params"], store.run(run_id)["tags"]) == ({"p": "a\ufffdb"}, {"t": "\ufffd"})

    def test_a_name_has_the_goal_that_was_set_last(self, store: Metadata) -> None:
        assert store.goal("late") is None
        for goal in (Goal(metric="auc", direction="max"), Goal(metric="log_loss", direction="min", target=0.4)):
            store.set_goal("late", goal)
            assert store.goal("late") == goal
        with pytest.raises(InvalidInput, match="name"):
            store.set_goal("a/b", goal)

    def test_a_run_that_waits_is_continued(self, store: Metadata) -> None:
        run_id = store.start_run("late", params={}, tags={})
        for _ in range(2):
            store.end_run(run_id, status="SCHEDULED")
            assert store.run(run_id)["status"] == "SCHEDULED"
            store.continue_run(run_id)
            assert store.run(run_id)["status"] == "RUNNING"

    def test_a_run_takes_many_params(self, store: Metadata) -> None:
        params = {f"p{i}": i for i in range(250)}
        assert len(store.run(store.start_run("late", params=params, tags={}))["params"]) == 250

    def test_runs_have_ids_of_their_own(self, store: Metadata) -> None:
        assert len({store.start_run("late", params={}, tags={}) for _ in range(3)}) == 3

    def test_an_unknown_run_is_not_found(self, store: Metadata) -> None:
        for call in (
            lambda: store.run("nope"),
            lambda: store.log_metrics("nope", {"auc": 0.5}),
            lambda: store.end_run("nope", status="FAILED"),
            lambda: store.continue_run("nope"),
        ):
            with pytest.raises(NotFound, match="nope"):
                call()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_metric_that_is_not_finite_is_refused(self, store: Metadata, value: float) -> None:
        run_id = store.start_run("late", params={}, tags={})
        with pytest.raises(InvalidInput, match="auc"):
            store.log_metrics(run_id, {"auc": value})
        assert store.run(run_id)["metrics"] == {}

    @pytest.mark.parametrize("name", ["", "a/b", "a:b", "'", "..", "é", "a" * 201])
    def test_a_name_that_cannot_be_a_folder_is_refused(self, store: Metadata, name: str) -> None:
        with pytest.raises(InvalidInput):
            store.start_run(name, params={}, tags={})
        with pytest.raises(InvalidInput):
            store.register(name, digest="d", path="/p", run_id="r")

    def test_text_that_would_be_cut_is_refused(self, store: Metadata) -> None:
        with pytest.raises(InvalidInput, match="limit"):
            store.start_run("late", params={"p": "x" * 5_001}, tags={})

    def test_versions_count_from_one_per_name(self, store: Metadata) -> None:
        first = store.register("late", digest="d1", path="/m/d1", run_id="r1")
        second = store.register("late", digest="d2", path="/m/d2", run_id="r2")
        other = store.register("early", digest="d1", path="/m/d1", run_id="r1")
        assert first == ModelVersion(name="late", version=1, digest="d1", path="/m/d1", run_id="r1")
        assert (second.version, other.version) == (2, 1)
        assert store.versions("late") == [first, second]
        assert store.version("late", 2) == second
        assert store.names() == ["early", "late"]

    def test_the_same_digest_is_the_same_version(self, store: Metadata) -> None:
        first = store.register("late", digest="d1", path="/m/d1", run_id="r1")
        assert store.register("late", digest="d1", path="/elsewhere", run_id="r2") == first
        assert len(store.versions("late")) == 1

    def test_an_unknown_name_is_answered_with_the_near_ones(self, store: Metadata) -> None:
        store.register("late", digest="d1", path="/m/d1", run_id="r1")
        assert store.versions("lat") == []
        with pytest.raises(NotFound, match="Did you mean 'late'"):
            store.version("lat", 1)
        with pytest.raises(NotFound, match="no version 7"):
            store.version("late", 7)

    def test_an_alias_points_at_one_version_and_moves(self, store: Metadata) -> None:
        first = store.register("late", digest="d1", path="/m/d1", run_id="r1")
        second = store.register("late", digest="d2", path="/m/d2", run_id="r2")
        assert store.alias("late", "gold") is None
        assert store.alias("nope", "gold") is None
        store.set_alias("late", "gold", 1)
        store.set_alias("late", "candidate", 2)
        assert (store.alias("late", "gold"), store.alias("late", "candidate")) == (first, second)
        store.set_alias("late", "gold", 2)
        assert store.alias("late", "gold") == second

    def test_an_alias_of_an_unknown_version_is_refused(self, store: Metadata) -> None:
        with pytest.raises(NotFound):
            store.set_alias("late", "gold", 1)

    def test_the_ledger_gives_back_what_was_recorded_in_order(self, store: Metadata) -> None:
        entries = [entry(), entry("early", decision=Act(reason="better", evidence={"gain": 0.1})), entry(actor="bob")]
        for one in entries:
            store.record(one)
        assert store.decisions() == entries
        assert store.decisions("late") == [entries[0], entries[2]]
        assert store.decisions("nobody") == []

    def test_the_ledger_names_a_number_that_is_not_finite(self, store: Metadata) -> None:
        store.record(entry(decision=Hold(reason="auc is NaN", evidence={"auc": math.nan, "loss": -math.inf})))
        assert store.decisions()[0].decision == Hold(reason="auc is NaN", evidence={"auc": "nan", "loss": "-inf"})

    def test_values_are_copied(self, store: Metadata) -> None:
        params = {"lr": 1}
        details = {"version": 1}
        run_id = store.start_run("late", params=params, tags={})
        store.record(entry(details=details))
        params["lr"] = details["version"] = 2
        store.run(run_id)["params"]["lr"] = "3"
        assert store.run(run_id)["params"] == {"lr": "1"}
        assert store.decisions()[0].details == {"version": 1}

    def test_threads_share_it(self, store: Metadata) -> None:
        run_id = store.start_run("late", params={}, tags={})

        def work(i: int) -> int:
            store.log_metrics(run_id, {f"m{i}": float(i)}, step=i)
            store.record(entry())
            return store.register("late", digest=f"d{i % 3}", path="/m", run_id=run_id).version

        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(work, range(12)))
        assert set(versions) == {1, 2, 3}
        assert len(store.versions("late")) == 3
        assert len(store.decisions()) == 12
        assert len(store.run(run_id)["metrics"]) == 12

    def test_a_closed_store_says_so(self, store: Metadata) -> None:
        store.close()
        with pytest.raises(Unavailable, match="closed"):
            store.names()
