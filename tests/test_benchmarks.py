"""Benchmarks give the form that their readers rely on."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from benchmarks._features.large import wrong_rows
from benchmarks._figures import Figures, Measure, PeerAbsent, Scene, rows_of
from benchmarks._form import against_bound, against_peer, alternately
from benchmarks._serving import cache

ROOT = Path(__file__).parents[1]
FIELDS = {"key", "measure", "unit", "ours", "reference", "reference_name", "ratio", "bound", "holds"}


def test_a_figure_that_could_not_be_measured_does_not_hold() -> None:
    for nothing in (None, float("nan")):
        assert not against_bound("k", "m", "s", nothing, 1.0, at="most").holds


def test_a_bound_is_kept_or_not() -> None:
    assert against_bound("k", "m", "s", 1.0, 1.0, at="most").holds
    assert not against_bound("k", "m", "s", 1.1, 1.0, at="most").holds
    assert against_bound("k", "m", "s", 1.0, 1.0, at="least").holds
    assert not against_bound("k", "m", "s", 0.9, 1.0, at="least").holds


def test_a_ratio_is_ours_over_the_references_and_holds_only_with_a_right_answer() -> None:
    row = against_peer("k", "m", "s", 1.0, 4.0, "peer", 0.25)
    assert (row.ratio, row.reference, row.holds) == (0.25, 4.0, True)
    assert not against_peer("k", "m", "s", 1.0, 4.0, "peer", 0.24).holds
    assert against_peer("k", "m", "s", 1.0, 4.0, "peer", 0.2, at="least").holds
    assert not against_peer("k", "m", "s", 1.0, 4.0, "peer", 0.25, right=False).holds


def test_without_both_figures_there_is_no_ratio_and_the_row_does_not_hold() -> None:
    for ours, reference in ((None, None), (1.0, None), (None, 1.0), (1.0, 0.0)):
        row = against_peer("k", "m", "s", ours, reference, "peer", 9.0)
        assert row.ratio is None
        assert not row.holds


def test_calls_take_turns_and_the_first_round_is_not_counted() -> None:
    said: list[str] = []

    def call(name: str, seconds: float) -> float:
        said.append(name)
        return seconds

    taken = alternately(3, lambda: call("a", len(said)), lambda: call("b", len(said)))
    assert "".join(said) == "ab" + "ba" + "ab" + "ba"
    assert taken == [[3, 4, 7], [2, 5, 6]]


@pytest.mark.parametrize(
    ("figures", "said", "holds", "broke"),
    [
        (Figures(ours=1.0, reference=2.0), "m", True, False),
        (Figures(ours=1.0, reference=2.0, wrong="3 rows differ"), "m; 3 rows differ", False, False),
        (PeerAbsent("not installed"), "m; not installed", False, False),
        (ValueError("nothing there"), "m; broke: ValueError: nothing there", False, True),
    ],
)
def test_a_row_without_a_right_answer_says_why(
    figures: Figures | Exception, said: str, holds: bool, broke: bool
) -> None:
    def run(scene: Scene) -> Figures:
        if isinstance(figures, Exception):
            raise figures
        return figures

    measure = Measure(key="k", measure="m", unit="s", reference_name="peer", bound=1.0, run=run)
    (row,), has_broken, notes = rows_of([measure], quick=True)
    assert (row.measure, row.holds, has_broken) == (said, holds, broke)
    assert [note.splitlines()[-1] for note in notes] == (["ValueError: nothing there"] if broke else [])


def test_rows_of_one_run_get_each_their_own_figures_and_an_absent_peer_takes_only_its_own() -> None:
    def run(scene: Scene) -> dict[str, Figures | PeerAbsent]:
        return {"a": Figures(ours=1.0, reference=2.0), "b": PeerAbsent("not installed")}

    both = [Measure(key=k, measure="m", unit="s", reference_name="peer", bound=1.0, run=run) for k in "ab"]
    rows, broke, _ = rows_of(both, quick=True)
    assert [(row.key, row.measure, row.holds) for row in rows] == [("a", "m", True), ("b", "m; not installed", False)]
    assert not broke


def test_missing_repeated_changed_and_foreign_rows_of_a_backfill_are_counted() -> None:
    rows = pl.DataFrame({"user": [1, 2, 3], "at": [5, 6, 7], "created": [5, 6, 7], "total": [0.1, 0.2, 0.3]})
    rows = rows.with_columns(high=pl.col("total") > 0.15)
    assert wrong_rows(rows, rows.reverse()) == 0
    assert wrong_rows(rows, rows.head(2)) == 1
    assert wrong_rows(rows, pl.concat([rows, rows.head(1)])) == 1
    assert wrong_rows(rows, rows.with_columns(total=pl.col("total") * 2)) == 3
    assert wrong_rows(rows, rows.with_columns(user=pl.col("user") + 1, at=pl.col("at") + 1)) == 6
    assert wrong_rows(rows, pl.concat([rows, rows.head(1).with_columns(user=pl.lit(9, dtype=pl.Int64))])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("measure", [cache.cost, cache.flat])
def test_what_is_measured_of_the_cache_is_a_full_one_and_rows_that_come_once(
    measure: Callable[[Scene], Figures], tmp_path: Path
) -> None:
    found = measure(Scene(quick=True, folder=tmp_path, say=lambda note: None))
    assert found.wrong == ""
    assert found.reference is not None
    assert found.ours > 0 < found.reference


KEYS = """join_small join_large join_feast_duckdb join_feast_default join_five_views join_out_of_core pool_scaling pool_ray_data
online_lmdb online_feast_sqlite online_redis online_feast_redis push_readable backfill_killed"""


@pytest.mark.soak
@pytest.mark.ray
def test_the_benchmark_of_features_has_its_keys_in_quick_and_right_answers(tmp_path: Path) -> None:
    found = run("features", tmp_path)
    assert [row["key"] for row in found] == KEYS.split()
    assert KEYS.split() == keys("features")
    by_key = {row["key"]: row for row in found}
    unbuilt = {key for key in by_key if "--quick builds no peer" in by_key[key]["measure"]}
    assert unbuilt == {key for key in by_key if "feast" in key}
    for row in found:
        # No trouble is added to what a row says of itself: the answers were right.
        assert row["key"] in unbuilt or "; " not in row["measure"], row
    assert by_key["backfill_killed"]["holds"]


@pytest.mark.slow
def test_a_row_is_measured_alone(tmp_path: Path) -> None:
    assert KEYS.split() == keys("features")
    (row,) = run("features", tmp_path, "--only", "join_small")
    assert row["key"] == "join_small"


@pytest.mark.soak
@pytest.mark.ray
def test_the_flights_benchmark_has_its_keys_in_quick(tmp_path: Path) -> None:
    found = run("flights", tmp_path)
    assert [row["key"] for row in found] == list(importlib.import_module("benchmarks.flights").KEYS)
    by_key = {row["key"]: row for row in found}
    assert by_key["parity_features"]["holds"]
    assert by_key["failed"]["holds"]


def keys(name: str) -> list[str]:
    """Loaded only where it is asked for: benchmarks load Ray and their peers."""
    return [measure.key for measure in importlib.import_module(f"benchmarks.{name}").MEASURES]


def run(name: str, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The rows that `--quick --json` writes, in the form of every benchmark."""
    file = folder / "rows.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(file), *arguments]
    shell = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}  # of another cluster
    talks = {**shell, "PYTHONFAULTHANDLER": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=talks) as process:
        try:
            said, _ = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            for hung in (*psutil.Process(process.pid).children(recursive=True), process):
                with suppress(psutil.Error, ProcessLookupError):
                    hung.send_signal(signal.SIGABRT)  # each says where it waits
            said, _ = process.communicate()
    assert process.returncode == 0, said
    found = json.loads(file.read_text())
    assert found["benchmark"] == name
    assert all(row.keys() == FIELDS for row in found["rows"])
    rows: list[dict[str, Any]] = found["rows"]
    return rows


TRAINING = """step_ddp scaling_two start_local pipeline checkpoint_stall checkpoint_share kill_worker kill_driver load_spec
load_export"""


@pytest.mark.ray
@pytest.mark.parametrize(
    "key",
    ["step_ddp", pytest.param("pipeline", marks=pytest.mark.soak), pytest.param("load_spec", marks=pytest.mark.soak)],
)
def test_a_row_of_the_benchmark_of_training_has_its_form_in_quick(tmp_path: Path, key: str) -> None:
    """Each of the others takes most of a minute of starting processes."""
    assert TRAINING.split() == keys("training")
    (row,) = run("training", tmp_path, "--only", key)
    assert row["key"] == key
    assert row["ratio"] > 0
    assert "broke" not in row["measure"]


BURST = """free_at_launch give_back_s all_cloud_killed_s all_cloud_lost misplaced cost_bound_back cost_bound cost_at_once
cost_starburst spot_exhausted over_budget plan_tick leaked"""


@pytest.mark.slow
@pytest.mark.parametrize("key", ["misplaced", "spot_exhausted", "over_budget", "plan_tick", "leaked"])
def test_a_row_of_the_benchmark_of_bursting_has_its_form_in_quick(tmp_path: Path, key: str) -> None:
    """The form of the others is that of `misplaced`, which comes from the same simulations."""
    assert BURST.split() == keys("burst")
    (row,) = run("burst", tmp_path, "--only", key)
    assert row["key"] == key
    assert "broke" not in row["measure"]
    assert row["holds"] or key == "plan_tick"


@pytest.mark.ray
@pytest.mark.alone
@pytest.mark.soak
def test_all_bought_machines_are_killed_and_their_work_goes_on_and_they_are_given_back(tmp_path: Path) -> None:
    (row,) = run("burst", tmp_path, "--only", "all_cloud_killed_s")
    assert row["holds"], row


SERVING = """cache_cost cache_flat cache_wrong split_wrong hit_rps hit_p50 miss_vs_chain fused_litserve fused_bentoml fused_mlflow
fused_floor full_path log_cost log_lost shadow_hung_p50 shadow_hung_p99 shadow_lost failed_changes flip_p99 admit_s"""


@pytest.mark.slow
@pytest.mark.parametrize("key", ["cache_flat", "cache_wrong", "split_wrong"])
def test_a_row_of_the_benchmark_of_serving_has_its_form_in_quick(tmp_path: Path, key: str) -> None:
    assert SERVING.split() == keys("serving")
    (row,) = run("serving", tmp_path, "--only", key)
    assert row["key"] == key
    assert "; " not in row["measure"], row


@pytest.mark.soak
@pytest.mark.ray
def test_the_benchmark_of_jobs_has_its_form_in_quick(tmp_path: Path) -> None:
    rows = run("jobs", tmp_path)
    keys = (
        "plan_time jain_simulated off_share jain_real idle_slots production_start_s flood_gain resume_lost submit_rate"
    )
    assert [row["key"] for row in rows] == keys.split()
    assert not [row for row in rows if "; " in row["measure"]]
    held = {row["key"] for row in rows if row["holds"]}
    assert held >= {"off_share", "idle_slots", "flood_gain"}


@pytest.mark.ray
@pytest.mark.parametrize(
    "key",
    ["hit_rps", "shadow_lost", *(pytest.param(key, marks=pytest.mark.soak) for key in ("full_path", "failed_changes"))],
)
def test_a_row_of_the_benchmark_of_serving_that_needs_an_endpoint_has_its_form_in_quick(
    tmp_path: Path, key: str
) -> None:
    """Each of the others takes most of a minute of starting processes."""
    (row,) = run("serving", tmp_path, "--only", key)
    assert row["key"] == key
    assert "; " not in row["measure"], row
    if key in ("shadow_lost", "failed_changes"):
        assert row["holds"]


SEARCH = """trial_overhead_tune trial_overhead_warm trial_overhead_floor killed_lost killed_trajectory trial_preempted
five_hundred nas_tpe nas_random asha_time flights_search"""


@pytest.mark.ray
@pytest.mark.parametrize(
    "key", ["killed_lost", *(pytest.param(key, marks=pytest.mark.soak) for key in ("trial_overhead_tune", "nas_tpe"))]
)
def test_a_row_of_the_benchmark_of_search_has_its_form_in_quick(tmp_path: Path, key: str) -> None:
    """Those of trainings take most of a minute each."""
    assert SEARCH.split() == keys("search")
    (row,) = run("search", tmp_path, "--only", key)
    assert row["key"] == key
    assert "broke" not in row["measure"]
    if key == "killed_lost":
        assert row["ours"] == 0
