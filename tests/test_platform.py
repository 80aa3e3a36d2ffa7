"""The composition root, without Ray: what opens, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mlplat
from mlplat import features as F
from mlplat.errors import InvalidInput, NotFound, Refused
from mlplat.model import Model, Recorded, Task, mlp
from mlplat.model.artifact import Golden, load, place, save
from mlplat.platform import Platform
from mlplat.testing.learnable import learnable
from mlplat.train import Interrupted, TrainSettings
from tests.cli.test_main import mlplat as command
from tests.model.networks import make_linear

SETTINGS = TrainSettings(epochs=8, batch_size=128, holdout_s=8 * 3600, learning_rate=1e-2)
START = datetime(2026, 1, 1, tzinfo=UTC)
readings = F.source("readings", key="machine", time="read_at", id="reading_id")


@F.view(readings)
class recent:
    """The last hour."""

    mean_1h = F.mean("value", window="1h")
    count_1h = F.count(window="1h")


def events(count: int = 2_000) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "reading_id": [f"r{i}" for i in range(count)],
            "machine": [f"m{i % 5}" for i in range(count)],
            "read_at": [START + timedelta(minutes=i) for i in range(count)],
            "value": [float(i * 7919 % 101) for i in range(count)],
        }
    )


def labels(count: int = 2_000) -> pl.DataFrame:
    """A machine fails the more likely, the higher its load."""
    frame = events(count).select("machine", pl.col("read_at").alias("asked_at"), load=pl.col("value") / 100)
    luck = pl.Series([i * 7907 % 97 / 100 for i in range(count)])
    return frame.with_columns(fails=(pl.col("load") > luck).cast(pl.Int64))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with features, a gold model and its decision."""
    home = tmp_path_factory.mktemp("home")
    with mlplat.connect(home, scratch=home / "near") as platform:
        platform.features.ingest(readings, events())
        platform.features.apply(recent)
        data = platform.features.training_set("fails", labels(), [recent], label="fails", time="asked_at")
        platform.promote(platform.train(mlp((16,)), data, settings=SETTINGS))
    return home


@pytest.mark.slow
def test_the_first_model_of_a_name_becomes_gold_with_the_reason_no_incumbent(trained: Path) -> None:
    with mlplat.connect(trained) as platform:
        assert platform.gold("fails").version == 1
        assert platform.metadata.decisions("fails")[0].decision.reason.startswith("no incumbent")


@pytest.mark.slow
def test_encoded_rows_are_where_they_were_said_to_be(trained: Path) -> None:
    assert len(list((trained / "near" / "rows").iterdir())) == 1
    assert not (trained / "cache" / "rows").exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["onprem", None])
def test_a_training_says_how_much_it_reads_where_the_home_has_a_place(
    trained: Path, monkeypatch: pytest.MonkeyPatch, where: str | None
) -> None:
    asked: list[dict[str, object]] = []

    def queued(*_: object, **options: object) -> Interrupted:
        asked.append(options)
        return Interrupted(step=0, run_id="1")

    monkeypatch.setattr(Platform, "_on_workers", queued)
    if where is not None:
        monkeypatch.setenv("MLPLAT_PLACE", where)
    with mlplat.connect(trained) as platform:
        data = platform.features.training_set("fails", labels(), [recent], label="fails", time="asked_at")
        platform.train(mlp((16,)), data, settings=SETTINGS)
    assert asked[0]["data_gb"] == ({} if where is None else {where: data.path.stat().st_size / 1e9})


@pytest.mark.slow
def test_batch_prediction_keeps_the_rows_and_their_order(trained: Path) -> None:
    with mlplat.connect(trained) as platform:
        asked = labels().sample(50, seed=1)
        answered = platform.predict("fails", asked, time="asked_at")
    assert answered.select(asked.columns).equals(asked)
    assert answered["probability"].is_between(0, 1).all()


@pytest.mark.slow
def test_a_model_of_recorded_code_gives_classes_in_batch(trained: Path) -> None:
    task = Task(kind="multiclass", classes=("fine", "fails"))
    with mlplat.connect(trained) as platform:
        gold = platform.load("fails")
        width = gold.encoding.width
        model = Model(
            network=Recorded.of(make_linear),
            weights={
                "linear.weight": np.zeros((2, width), "f4"),
                "linear.bias": np.array([0, 1], "f4"),
                "seen": np.array(0.0, "f4"),
            },
            encoding=gold.encoding,
            signature=replace(gold.signature, outputs=task.fields()),
            task=task,
        )
        path = save(model, trained / "models" / "kinds", golden=Golden(inputs={}, outputs={}))
        run_id = platform.gold("fails").run_id
        version = platform.metadata.register("kinds", digest=model.digest, path=str(path), run_id=run_id)
        answered = platform.predict(version, labels(3), time="asked_at")
        assert answered["class"].to_list() == ["fails"] * 3
        assert answered["probability.fails"].to_list() == pytest.approx([0.7310586] * 3)
        assert platform.predict(version, labels(3).head(0), time="asked_at").schema == answered.schema


@pytest.mark.slow
def test_a_model_is_exported_by_the_platform_and_by_the_command(trained: Path, tmp_path: Path) -> None:
    import onnxruntime

    with mlplat.connect(trained) as platform:
        assert platform.export("fails", tmp_path / "fails.onnx") == tmp_path / "fails.onnx"
        for name in ("fails.pt", "fails"):
            with pytest.raises(InvalidInput, match=r"exported to a file whose name ends in \.onnx"):
                platform.export("fails", tmp_path / name)
        model = platform.load("fails")
        golden = load(place(trained, "fails", model.digest)).golden
    ended = command("export", "fails@1", "again.onnx", "--home", str(trained), "--json", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    told = {"model": "fails", "version": 1, "digest": model.digest, "path": "again.onnx"}
    assert json.loads(ended.stdout) == told
    numeric, codes = model.encoding.encode(golden.inputs)
    for name in ("fails.onnx", "again.onnx"):
        session = onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"])
        (found,) = session.run(["probability"], {"numeric": numeric, "codes": codes})
        assert np.abs(found - golden.outputs["probability"]).max() <= 1e-5


@pytest.mark.slow
def test_evaluation_measures_what_the_model_says(trained: Path) -> None:
    with mlplat.connect(trained) as platform:
        assert platform.evaluate("fails", labels(), label="fails", time="asked_at")["auc"] > 0.8


@pytest.mark.slow
def test_a_wrong_model_name_is_answered_with_the_near_ones(trained: Path) -> None:
    with mlplat.connect(trained) as platform, pytest.raises(NotFound, match="'fails'"):
        platform.predict("fail", labels(), time="asked_at")


@pytest.mark.slow
def test_a_model_cannot_be_promoted_under_another_name(trained: Path) -> None:
    with mlplat.connect(trained) as platform, pytest.raises(InvalidInput, match="trained as 'fails'"):
        platform.promote(platform.gold("fails"), to="other")


@pytest.mark.slow
def test_a_registered_model_without_a_decision_is_not_served(trained: Path, tmp_path: Path) -> None:
    with mlplat.connect(trained) as platform:
        data = learnable(tmp_path / "data", rows=500, numbers=2, categories=(3,), seed=1, name="alone", strength=1.0)
        platform.train(mlp((4,)), data, settings=TrainSettings(epochs=1, holdout_s=60))
        with pytest.raises(Refused, match="promote one first"):
            platform.gold("alone")


@pytest.mark.slow
def test_status_is_json_and_starts_nothing(trained: Path) -> None:
    with mlplat.connect(trained) as platform:
        status = platform.status()
    assert {"name": "fails", "versions": 1, "gold": 1, "candidate": 1} in status["models"]
    assert status["cluster"] is None
    assert status["decisions"][0]["act"] is True


def test_a_home_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InvalidInput, match="other things"):
        mlplat.connect(tmp_path)


@pytest.mark.slow
def test_a_label_that_is_constant_is_named(trained: Path) -> None:
    with mlplat.connect(trained) as platform:
        constant = labels().with_columns(never=pl.lit(0, dtype=pl.Int64)).drop("fails")
        data = platform.features.training_set("never", constant, [recent], label="never", time="asked_at")
        with pytest.raises(InvalidInput, match="never"):
            platform.train(mlp((4,)), data, settings=SETTINGS)
