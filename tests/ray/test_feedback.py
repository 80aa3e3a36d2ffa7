"""What was served, and what came of it: classes, labels of the next training set, and loops that advance by themselves."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import polars as pl
import pytest

import mlplat
from mlplat.decision import Act
from mlplat.endpoints import GOLD_POLICY
from mlplat.errors import InvalidInput, NotFound, Unavailable
from mlplat.model import mlp
from mlplat.serve.gold_promoter import GoldPromoter
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from tests.cli.test_main import variables

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = TrainSettings(task="multiclass", epochs=2, holdout_s=10 * 24 * 3600, batch_size=128, learning_rate=2e-2)
CLASSES = ("large", "middle", "small")


def labels(rows: int = 3_000) -> pl.DataFrame:
    random = np.random.default_rng(7)
    size = random.normal(size=rows)
    noisy = size + 0.3 * random.normal(size=rows)
    return pl.DataFrame(
        {
            "shop": [f"s{i}" for i in range(rows)],
            "at": [START + timedelta(minutes=20 * i) for i in range(rows)],
            "size": size,
            "box": np.select([noisy > 0.5, noisy < -0.5], ["large", "small"], "middle"),
        }
    )


@pytest.fixture(scope="module")
def platform(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlplat.Platform]:
    """Two versions that tell classes; the first is gold and served."""
    with mlplat.connect(tmp_path_factory.mktemp("boxes")) as platform:
        events = mlplat.features.source("orders", key="shop", time="at")
        view = mlplat.features.view(events)(type("recent", (), {"orders": mlplat.features.count(window="7d")}))
        platform.features.apply(view)
        platform.features.ingest(events, labels().select("shop", "at").head(50))
        data = platform.features.training_set("box", labels(), [view], label="box", time="at", request=["size"])
        for width in (4, 16):
            model = platform.train(mlp((width,)), data, settings=SETTINGS, progress=Silent())
            platform.promote(model, force=("a test", "any will do"))
        platform.serve("box")
        yield platform
        platform.undeploy("box")


def ask(platform: mlplat.Platform, moment: str, count: int = 400) -> list[Any]:
    rows = [{"shop": f"{moment}{i}", "size": 0.02 * (i % 100) - 1.0} for i in range(count)]
    return platform.serve("box").predict(rows)


def tell(platform: mlplat.Platform, answers: list[Any], *, right: str) -> None:
    """What happened is what the arm `right` said, and never what another one did."""
    other = {"large": "small", "middle": "large", "small": "middle"}
    said = [a.outputs["class"] for a in answers]
    values = [c if a.arm == right else other[c] for a, c in zip(answers, said, strict=True)]
    told = pl.DataFrame({"prediction_id": [a.id for a in answers], "value": values})
    assert platform.outcome("box", told) == len(answers)


def test_outcomes_may_be_classes_and_an_arm_has_the_loss_of_what_it_said(platform: mlplat.Platform) -> None:
    platform.experiment("box", "box@2", share=0.5)
    answers = ask(platform, "a")
    with pytest.raises(InvalidInput, match="value is 'huge', and must be one of the classes large, middle, small"):
        platform.outcome("box", {"prediction_id": [answers[0].id], "value": ["huge"]})
    tell(platform, answers, right="v2")
    held = platform.advance("box", "v2", promoter=GoldPromoter(min_outcomes=10_000))
    known = dict(platform.features.events("outcomes.box").select("prediction_id", "value").iter_rows())
    for arm, name in (("v2", "loss"), ("gold", "gold_loss")):
        losses = [-math.log(a.outputs[f"probability.{known[a.id]}"]) for a in answers if a.arm == arm]
        assert held.evidence[name] == pytest.approx(np.mean(losses))
    assert held == platform.advance("box", "v2", promoter=GoldPromoter(min_outcomes=10_000))
    assert len([e for e in platform.metadata.decisions("box") if e.policy == GOLD_POLICY]) == 1
    platform.end("box", "v2")


def test_the_next_training_set_is_made_of_what_was_served(platform: mlplat.Platform) -> None:
    answers = ask(platform, "b", 60)
    told = pl.DataFrame({"shop": [f"b{i}" for i in range(30)], "value": [CLASSES[i % 3] for i in range(30)]})
    at = pl.DataFrame(platform.predictions("box")).filter(pl.col("prediction_id").is_in([a.id for a in answers]))
    assert platform.outcome("box", told.join(at.select("shop", "at"), on="shop")) == 30
    found = platform.labels("box").filter(pl.col("shop").str.starts_with("b"))
    assert found.columns == ["shop", "at", "box", "size"]
    assert sorted(found.select("shop", "box").rows()) == sorted(told.rows())
    view = platform.features.view("recent")
    data = platform.features.training_set(
        "box", pl.concat([labels(), found], how="diagonal"), [view], label="box", time="at", request=["size"]
    )
    assert data.rows == 3_030
    assert platform.train(mlp((4,)), data, settings=SETTINGS, progress=Silent()).version.version == 3


def test_what_was_served_is_described(platform: mlplat.Platform) -> None:
    ask(platform, "c", 10)
    described = platform.describe_predictions("box")
    log = pl.DataFrame(platform.predictions("box"))
    assert described.sketch.rows == log.height
    assert described.sketch.columns["size"].high == log["size"].max()
    assert described.sketch.columns["output.class"].distinct() == pytest.approx(log["output.class"].n_unique(), abs=0.1)
    assert platform.describe_predictions("box", until=START).sketch.rows == 0
    assert platform.describe_predictions("box", arm="gold").sketch.rows == log.filter(arm="gold").height
    with pytest.raises(NotFound, match=r"There is no source 'predictions.nothing'"):
        platform.describe_predictions("nothing")


def test_loops_carry_an_experiment_to_gold_and_several_do_what_one_does(platform: mlplat.Platform) -> None:
    platform.experiment("box", "box@2", share=0.10, arm="b")
    before = len(platform.metadata.decisions("box"))
    said: list[str] = []
    with ExitStack() as loops:
        for _ in range(3):
            policy = GoldPromoter(min_outcomes=20)
            loops.enter_context(platform.advancing("box", every="1s", promoter=policy, say=said.append))
        for moment in range(60):
            if platform.gold("box").version == 2:
                break
            tell(platform, ask(platform, f"d{moment}-"), right="b")
    assert platform.gold("box").version == 2
    made = platform.metadata.decisions("box")[before:]
    acts = [e.decision.evidence["action"] for e in made if isinstance(e.decision, Act)]
    assert acts == ["share", "gold"]
    assert any(line.startswith("b: gold: its loss is below gold's by") for line in said)
    platform.rollback("box", who="ann", why="a test")


def test_a_decision_that_was_written_down_and_not_done_is_done_at_the_next_look(
    platform: mlplat.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.experiment("box", "box@2", share=0.10, arm="e")
    tell(platform, ask(platform, "e"), right="e")
    policy = GoldPromoter(min_outcomes=20)

    def killed(*_: Any) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(platform, "_carry_out", killed)
        with pytest.raises(InterruptedError):
            platform.advance("box", "e", promoter=policy)
    assert platform.arms("box").filter(arm="e")["share"].item() == 0.1
    assert platform.advance("box", "e", promoter=policy).evidence["action"] == "share"
    assert platform.arms("box").filter(arm="e")["share"].item() == 0.5
    made = [e for e in platform.metadata.decisions("box") if e.details.get("arm") == "e"]
    assert [e.decision.evidence["action"] for e in made] == ["share"]
    platform.end("box", "e")


def test_a_store_that_is_away_for_a_while_is_told_of_and_the_loop_goes_on(
    platform: mlplat.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.experiment("box", "box@2", share=0.10, arm="f")
    said: SimpleQueue[str] = SimpleQueue()

    def away(*_: Any) -> None:
        raise Unavailable("the database is away")

    with platform.advancing("box", every="1s", say=said.put):
        assert said.get(timeout=30).startswith("f: hold: outcomes of 0 units")
        with monkeypatch.context() as patch:
            patch.setattr(platform.metadata, "version", away)
            assert said.get(timeout=30) == "not decided: the database is away; it is tried again every 1 s"
        assert said.get(timeout=30) == "it goes on"
    platform.end("box", "f")


def test_the_command_advances_until_it_is_told_to_stop(platform: mlplat.Platform, ray_cluster: Any) -> None:
    platform.experiment("box", "box@2", share=0.10, arm="c")
    command = [sys.executable, "-m", "mlplat.cli.main", "advance", "box", "--every", "1s"]
    environment = {**variables(), "MLPLAT_HOME": str(platform.home), "MLPLAT_RAY": ray_cluster.address}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking every 1s\n"
        assert process.stdout.readline().startswith("c: hold: outcomes of 0 units on one side")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    platform.end("box", "c")


def test_what_is_not_served_cannot_be_advanced(platform: mlplat.Platform, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="'nothing' is not served"), platform.advancing("nothing"):
        pass
    with pytest.raises(InvalidInput, match="duration 'soon'"), platform.advancing("box", every="soon"):
        pass
