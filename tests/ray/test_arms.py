"""Experiments, shadows and versions with processes of their own, on a real endpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import mlplat
from mlplat.decision import Act, Hold
from mlplat.errors import InvalidInput, MlplatError, NotFound
from mlplat.model import mlp
from mlplat.serve.gold_promoter import GoldPromoter
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from tests.ray.processes import below

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SETTINGS = TrainSettings(epochs=1, holdout_s=10 * 24 * 3600, batch_size=128, learning_rate=1e-2)
ROWS = [{"shop": f"s{i}", "size": 0.01 * i} for i in range(40)]


@pytest.fixture(scope="module")
def platform(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlplat.Platform]:
    """Three versions of a model, the first of which is gold and served."""
    random = np.random.default_rng(7)
    rows, start = 4_000, datetime(2026, 1, 1, tzinfo=UTC)
    size = random.normal(size=rows)
    labels = pl.DataFrame(
        {
            "shop": [f"s{i % 50}" for i in range(rows)],
            "at": [start + timedelta(minutes=10 * i) for i in range(rows)],
            "size": size,
            "sold": (random.random(rows) < 1 / (1 + np.exp(-2 * size))).astype(int),
        }
    )
    with mlplat.connect(tmp_path_factory.mktemp("arms")) as platform:
        events = mlplat.features.source("sales", key="shop", time="at")
        view = mlplat.features.view(events)(type("recent", (), {"sales": mlplat.features.count(window="7d")}))
        platform.features.apply(view)
        platform.features.ingest(events, labels.select("shop", "at").head(50))
        data = platform.features.training_set("sold", labels, [view], label="sold", time="at", request=["size"])
        for width in (4, 8, 12):
            model = platform.train(mlp((width,)), data, settings=SETTINGS, progress=Silent())
            platform.promote(model, force=("a test", "any will do"))
        platform.serve("sold")
        yield platform
        platform.undeploy("sold")


def test_an_experiment_gets_its_share_and_ends(platform: mlplat.Platform) -> None:
    endpoint = platform.serve("sold")
    platform.experiment("sold", "sold@2", share=0.5)
    found = endpoint.predict(ROWS)
    assert {(p.arm, p.version) for p in found} == {("gold", 1), ("v2", 2)}
    assert platform.arms("sold")["arm"].to_list() == ["gold", "v2"]
    small = {row["shop"] for row, p in zip(ROWS, found, strict=True) if p.arm == "v2"}
    platform.experiment("sold", "sold@2", share=0.9)
    more = {row["shop"] for row, p in zip(ROWS, endpoint.predict(ROWS), strict=True) if p.arm == "v2"}
    assert small < more
    platform.end("sold", "v2")
    assert {p.arm for p in endpoint.predict(ROWS)} == {"gold"}
    log = platform.predictions("sold").to_pylist()
    assert {row["propensity"] for row in log if row["arm"] == "v2"} == {0.5, 0.9}


def test_the_policy_for_features_holds_for_every_arm_until_the_next_serve(platform: mlplat.Platform) -> None:
    with pytest.raises(
        InvalidInput, match=r"missing names view 'recant', which this endpoint does not read; .* recent"
    ):
        platform.serve("sold", missing={"recant": "refuse"})
    endpoint = platform.serve("sold", missing={"recent": "refuse"}, expired="keep")
    stranger = [*ROWS, {"shop": "nowhere", "size": 0.5}]
    for share in (0.0, 0.5, 1.0):
        if share:
            platform.experiment("sold", "sold@2", share=share)
        assert len(endpoint.predict(ROWS)) == len(ROWS)
        with pytest.raises(InvalidInput, match="'shop' of row 40 has no features of view 'recent'"):
            endpoint.predict(stranger)
    platform.end("sold", "v2")
    assert platform.serve("sold").predict(stranger)[-1].features == {"recent": "missing"}


def test_what_cannot_be_an_experiment_is_refused(platform: mlplat.Platform) -> None:
    with pytest.raises(InvalidInput, match="gold already"):
        platform.experiment("sold", "sold@1", share=0.1)
    with pytest.raises(InvalidInput, match="above 0 and at most 1"):
        platform.experiment("sold", "sold@2", share=0.0)
    with pytest.raises(NotFound, match="no experiment or shadow"):
        platform.end("sold", "v9")
    with pytest.raises(NotFound, match="serve"):
        platform.experiment("nothing", platform.metadata.version("sold", 2), share=0.1)


def test_a_version_with_processes_of_its_own_answers_the_same_and_a_killed_one_costs_nothing(
    platform: mlplat.Platform,
) -> None:
    endpoint = platform.serve("sold")
    fused = {p.outputs["probability"] for p in endpoint.predict(ROWS)}
    platform.experiment("sold", "sold@2", share=1.0)
    as_arm = [p.outputs["probability"] for p in endpoint.predict(ROWS)]
    platform.experiment("sold", "sold@2", share=1.0, compute="cpu:1")
    apart = endpoint.predict(ROWS)
    assert [p.outputs["probability"] for p in apart] == as_arm
    assert {p.version for p in apart} == {2}
    many: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda: many.append([p.outputs["probability"] for p in endpoint.predict(ROWS)]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert many == [as_arm] * 8

    below("ServeReplica:mlplat-sold-2", ":backbone")[0].kill()
    answered = [endpoint.predict(ROWS) for _ in range(5)]
    assert {p.outputs["probability"] for predictions in answered for p in predictions} <= fused | set(as_arm)
    platform.end("sold", "v2")
    assert {p.version for p in endpoint.predict(ROWS)} == {1}


def test_a_shadow_is_logged_and_answers_nobody(platform: mlplat.Platform) -> None:
    endpoint = platform.serve("sold")
    platform.shadow("sold", "sold@3")
    assert {p.arm for p in endpoint.predict(ROWS)} == {"gold"}
    for _ in range(100):
        log = [row for row in platform.predictions("sold").to_pylist() if row["shadow"]]
        if len(log) == len(ROWS):
            break
    assert {(row["arm"], row["version"]) for row in log} == {("v3", 3)}
    platform.end("sold", "v3")


def test_no_request_fails_while_everything_changes(platform: mlplat.Platform) -> None:
    endpoint, failures, answered, stop = platform.serve("sold"), [], [0], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                endpoint.predict(ROWS[:3])
                answered[0] += 1
            except MlplatError as error:
                failures.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for share in (0.01, 0.1, 0.5, 1.0):
            platform.experiment("sold", "sold@2", share=share)
        platform.metadata.set_alias("sold", "gold", 2)
        platform.serve("sold")
        platform.metadata.set_alias("sold", "gold", 1)
        platform.serve("sold")
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert answered[0] > 50


def test_outcomes_carry_a_better_experiment_to_gold_and_it_comes_back_by_hand(platform: mlplat.Platform) -> None:
    """Version 1 is made to look worse: what happened is what version 2 said."""
    endpoint = platform.serve("sold")
    platform.experiment("sold", "sold@2", share=0.10, arm="b")
    policy = GoldPromoter(min_outcomes=20)
    held = platform.advance("sold", "b", promoter=policy)
    assert isinstance(held, Hold)

    def ask_and_tell(moment: str) -> None:
        asked = [{"shop": f"{moment}{i}", "size": 0.02 * (i % 100) - 1.0} for i in range(600)]
        found = endpoint.predict(asked)
        truth = platform.load("sold@2").predict(
            {"size": [row["size"] for row in asked], "recent.sales": [0] * len(asked)}
        )["probability"]
        told = pl.DataFrame(
            {
                "prediction_id": [p.id for p in found],
                "value": [
                    float(t > 0.5) if p.arm == "b" else float(t <= 0.5) for p, t in zip(found, truth, strict=True)
                ],
            }
        )
        assert platform.outcome("sold", told) == len(asked)

    ask_and_tell("a")
    ramped = platform.advance("sold", "b", promoter=policy)
    assert isinstance(ramped, Act), ramped.reason
    assert ramped.evidence["action"] == "share"
    assert platform.arms("sold").filter(arm="b")["share"].item() == 0.5
    ask_and_tell("b")
    promoted = platform.advance("sold", "b", promoter=policy)
    assert isinstance(promoted, Act), promoted.reason
    assert promoted.evidence["action"] == "gold"
    assert platform.gold("sold").version == 2
    assert {p.version for p in endpoint.predict(ROWS)} == {2}
    assert platform.arms("sold")["arm"].to_list() == ["gold", "kept"]

    platform.rollback("sold", who="ann", why="the shop closes at noon")
    assert platform.gold("sold").version == 1
    assert {p.version for p in endpoint.predict(ROWS)} == {1}
    history = platform.gold_history("sold")
    assert [(p.version, p.actor) for p in history[-2:]] == [(2, "platform"), (1, "ann")]
    assert "shop closes" in history[-1].reason


def test_a_promotion_that_comes_while_a_name_is_served_again_stays(
    platform: mlplat.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlplat.serve._ray import control  # not before a cluster is there: Serve reads its settings then

    platform.serve("sold")
    before, start = platform.gold("sold").version, control._start
    other = 1 if before != 1 else 2

    def late(*given: Any) -> str:
        monkeypatch.undo()
        platform.make_gold("sold", f"sold@{other}", who="ann", why="at the same moment")
        return start(*given)

    monkeypatch.setattr(control, "_start", late)
    platform.serve("sold")
    assert platform.arms("sold")["version"].to_list() == [other, before]
    assert platform.gold("sold").version == other
    platform.rollback("sold", who="ann", why="a test")
