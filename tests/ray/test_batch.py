"""Batch prediction on the cluster: the answers of the endpoint to the same rows, whole files whatever dies, and mistakes in
the user's words."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import mlplat
from mlplat.errors import InvalidInput, Refused
from mlplat.model import mlp
from mlplat.scores import Predicted
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from tests.cli.test_main import mlplat as command
from tests.cli.test_main import variables
from tests.features.s3_stand_in import stand_in
from tests.ray.processes import below

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

F = mlplat.features
START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = TrainSettings(epochs=1, holdout_s=10 * 24 * 3600, batch_size=128, learning_rate=1e-2)
ROWS = 4_000

sales = F.source("sales", key="shop", time="at", id="sale")


@F.view(sales)
class recent:
    sales_7d = F.count(window="7d")
    mean_7d = F.mean("price", window="7d")


@F.derived(recent, request={"size": float})
class odd:
    times: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(times=pl.col("size") / pl.col("recent.mean_7d"))


def table(rows: int = ROWS) -> pl.DataFrame:
    size = np.random.default_rng(7).normal(size=rows)
    return pl.DataFrame(
        {
            "sale": [f"n{i}" for i in range(rows)],
            "shop": [f"s{i % 50}" for i in range(rows)],
            "at": [START + timedelta(minutes=10 * i) for i in range(rows)],
            "price": [float(i * 31 % 17) for i in range(rows)],
            "asked": [START + timedelta(minutes=10 * ROWS, seconds=30 * i) for i in range(rows)],
            "size": size,
            "note": [None if i % 3 else "x" for i in range(rows)],
            "sold": (np.random.default_rng(8).random(rows) < 1 / (1 + np.exp(-2 * size))).astype(int),
        }
    )


@pytest.fixture(scope="module")
def platform(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlplat.Platform]:
    with mlplat.connect(tmp_path_factory.mktemp("batch")) as platform:
        platform.features.ingest(sales, table().select("sale", "shop", "at", "price"))
        platform.features.apply(recent, odd)
        labels = table().select("shop", "at", "size", "note", "sold")
        data = platform.features.training_set(
            "sold", labels, [recent, odd], label="sold", time="at", request=["size", "note"]
        )
        model = platform.train(mlp((8,)), data, settings=SETTINGS, progress=Silent())
        platform.promote(model, force=("a test", "any will do"))
        yield platform


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The table as eight pieces."""
    (tmp_path / "rows").mkdir()
    for number in range(2):
        table()[number * 2_000 :][:2_000].write_parquet(tmp_path / "rows" / f"{number}.parquet", row_group_size=500)
    return tmp_path / "rows"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlplat.scores.PIECE_ROWS", 500)


def test_files_are_answered_on_the_cluster_as_a_table_is_in_this_process_and_as_the_endpoint_does(
    platform: mlplat.Platform, folder: Path, tmp_path: Path
) -> None:
    here = platform.predict("sold", table(), time="asked", compute="cpu:0")
    written = platform.predict("sold", folder, time="asked", to=tmp_path / "scores")
    assert isinstance(written, Predicted)
    assert (written.rows, written.files, written.version) == (ROWS, 8, 1)
    found = pl.read_parquet(tmp_path / "scores" / "*.parquet")
    assert found.drop("probability").equals(here.drop("probability"))
    assert (found["probability"] - here["probability"]).abs().max() <= 1e-6
    assert found["model_digest"][0] == platform.gold("sold").digest

    endpoint = platform.serve("sold")
    try:
        for row in found.sample(40, seed=3).iter_rows(named=True):
            asked = {name: row[name] for name in ("shop", "size", "note")}
            (online,) = endpoint.predict([asked], at=row["asked"])
            assert online.outputs["probability"] == pytest.approx(row["probability"], abs=1e-6)
            assert online.digest == row["model_digest"]
        assert platform.parity("sold")
    finally:
        platform.undeploy("sold")


def test_a_table_in_memory_and_a_csv_go_to_the_cluster_too(platform: mlplat.Platform, tmp_path: Path) -> None:
    here = platform.predict("sold", table(1_200), time="at")
    table(1_200).write_csv(tmp_path / "rows.csv")
    for data in (table(1_200), table(1_200).lazy(), tmp_path / "rows.csv"):
        found = platform.predict("sold", data, time="at", compute="cpu:2")
        assert found["sale"].equals(here["sale"])
        assert (found["probability"] - here["probability"]).abs().max() <= 1e-6
    assert not list((platform.home / "tmp").glob("join-*"))


def test_a_mistake_in_a_far_piece_is_ours_and_nothing_is_written(
    platform: mlplat.Platform, folder: Path, tmp_path: Path
) -> None:
    table()[3_000:].with_columns(pl.lit("many").alias("size")).write_parquet(folder / "2.parquet")
    with pytest.raises(InvalidInput, match="cannot be read"):
        platform.predict("sold", folder, time="at", to=tmp_path / "scores")
    size = table()["size"].scatter([700, 3_900], None)
    (folder / "2.parquet").unlink()
    for number in range(2):
        piece = table().with_columns(size)[number * 2_000 :][:2_000]
        piece.write_parquet(folder / f"{number}.parquet", row_group_size=500)
    with pytest.raises(InvalidInput, match="field 'size' of row 700 is null") as caught:
        platform.predict("sold", folder, time="at", to=tmp_path / "scores")
    assert "ray" not in str(caught.value).lower()
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_a_demand_that_cannot_be_met_is_refused_at_once(platform: mlplat.Platform) -> None:
    with pytest.raises(Refused, match="cpu:16 can never run here"):
        platform.predict("sold", table(), time="at", compute="cpu:16")


def test_rows_at_urls_are_answered_at_urls(platform: mlplat.Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlplat.features.files import file_system
    from mlplat.features.read_data import to_frame

    with stand_in() as named:
        for name, value in named.items():
            monkeypatch.setenv(name, value)
        system, path = file_system("s3://lake/night/rows.parquet")
        with system.open_output_stream(path) as sink:
            table().write_parquet(sink, row_group_size=1_000)
        for _ in range(2):
            assert platform.predict("sold", "s3://lake/night", time="at", to="s3://lake/scores").files == 4
        found = to_frame("s3://lake/scores")
    assert found["sale"].equals(table()["sale"])
    assert found.drop("probability", "model_version", "model_digest").equals(table())


def until(holds: Callable[[], Any]) -> Any:
    """Look again and again; what is waited for is what another process does."""
    turn = threading.Event()
    for _ in range(3_000):
        if found := holds():
            return found
        turn.wait(0.02)
    raise AssertionError(f"{holds} did not come true")


def test_an_actor_that_is_killed_costs_no_row_and_doubles_none(
    platform: mlplat.Platform, folder: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        started = until(lambda: list(tmp_path.glob(".scores.draft-*/part-*")) and below("ray::", "MapWorker"))
        started[0].kill()
        killed.append(started[0].pid)

    thread = threading.Thread(target=kill)
    thread.start()
    rows = 400_000
    many = pl.concat([table()] * (rows // ROWS))
    for number in range(4):
        many[number * rows // 4 :][: rows // 4].write_parquet(folder / f"{number}.parquet", row_group_size=5_000)
    written = platform.predict("sold", folder, time="at", to=tmp_path / "scores", compute="cpu:2")
    thread.join()
    assert killed
    assert written.rows == rows
    assert pl.read_parquet(tmp_path / "scores" / "*.parquet")["sale"].equals(many["sale"])


JOB = """
import sys
import mlplat, mlplat.scores
mlplat.scores.PIECE_ROWS = 2_000
with mlplat.connect(sys.argv[1]) as platform:
    platform.predict("sold@1", sys.argv[2], time="at", to=sys.argv[3], compute="cpu:0")
"""


def test_a_job_that_is_killed_leaves_nothing_and_its_repeat_one_whole_result(
    platform: mlplat.Platform, folder: Path, tmp_path: Path
) -> None:
    many = pl.concat([table()] * 100)
    many.write_parquet(folder / "0.parquet", row_group_size=2_000)
    (folder / "1.parquet").unlink()
    words = [sys.executable, "-c", JOB, str(platform.home), str(folder), str(tmp_path / "scores")]
    with subprocess.Popen(words, env=variables()) as process:
        until(lambda: list(tmp_path.glob(".scores.draft-*/part-000003.parquet")))
        process.kill()
    assert not (tmp_path / "scores").exists()
    subprocess.run(words, env=variables(), check=True)
    assert pl.read_parquet(tmp_path / "scores" / "*.parquet")["sale"].equals(many["sale"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows", "scores"]


def test_the_command_says_where_the_answers_are(platform: mlplat.Platform, folder: Path, tmp_path: Path) -> None:
    words = ["predict", "sold", str(folder), "--to", "scores", "--time", "at", "--home", str(platform.home), "--json"]
    ended = command(*words, "--compute", "cpu:0", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["model"], said["version"], said["rows"], said["to"]) == ("sold", 1, ROWS, str(tmp_path / "scores"))
    assert pl.read_parquet(tmp_path / "scores" / "*.parquet").height == ROWS
