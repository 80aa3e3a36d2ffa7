from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from mlplat.errors import InvalidInput, Unavailable
from mlplat.model.signature import Field
from mlplat.model.task import Task
from mlplat.serve.dispatch import Count
from mlplat.serve.http import MAX_BODY_BYTES
from mlplat.serve.log import read_log
from tests.serve.models import ROW, SIGNATURE, FakeModel
from tests.serve.rig import JSON, NOW_US, Backing, Rig, StoppedClock, at_once, broken, never, opened, served, split


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with opened(tmp_path) as rig:
        yield rig


def test_a_row_is_answered_with_everything_that_explains_the_answer(rig: Rig) -> None:
    response = rig.predict(ROW)
    assert response.status_code == 200
    assert response.json() == {
        "request_id": "id0",
        "predictions": [
            {
                "id": "id1-0",
                "outputs": {"probability": 0.2},
                "model": {"name": "late", "version": 3, "digest": "d" * 64},
                "arm": "gold",
                "propensity": 1.0,
                "features": {"weather": "ok", "aircraft": "ok"},
            }
        ],
    }


def test_many_rows_give_what_each_gives_alone(rig: Rig) -> None:
    rows = [ROW, {**ROW, "origin": "XXX"}, {**ROW, "distance": 5}]
    together = [p["outputs"] for p in rig.predict(*rows).json()["predictions"]]
    assert together == [rig.predict(row).json()["predictions"][0]["outputs"] for row in rows]


def test_an_unknown_entity_is_answered_with_null_features_and_says_so(rig: Rig) -> None:
    response = rig.predict({**ROW, "origin": "XXX", "tail": None})
    assert response.status_code == 200
    (prediction,) = response.json()["predictions"]
    assert prediction["features"] == {"weather": "missing", "aircraft": "missing"}
    assert prediction["outputs"] == {"probability": 0.1}
    (row,) = rig.logged()
    assert (row["weather.wind"], row["status.weather"]) == (None, "missing")


def test_features_are_read_as_of_at(rig: Rig) -> None:
    rig.predict(ROW)
    rig.predict(ROW, at="1970-01-01T00:00:05Z")
    assert rig.reader.asked_us == [NOW_US, 5_000_000]


def test_the_log_holds_the_request_the_features_and_the_answer(rig: Rig) -> None:
    rig.send("POST", "/predict/late", json={"rows": [ROW]}, headers={"x-request-id": "mine-1"})
    (row,) = rig.logged()
    assert {name: row[name] for name in ("prediction_id", "request_id", "model", "version", "arm", "unit")} == {
        "prediction_id": "id0-0",
        "request_id": "mine-1",
        "model": "late",
        "version": 3,
        "arm": "gold",
        "unit": "JFK|N1",
    }
    assert (row["distance"], row["weather.wind"], row["aircraft.delay"]) == (1000.0, 10.0, 5)
    assert (row["output.probability"], row["status.weather"], row["propensity"]) == (0.2, "ok", 1.0)
    assert row["received_at"] == row["at"]


def test_a_request_that_is_refused_is_not_logged(rig: Rig) -> None:
    assert rig.predict({}).status_code == 422
    assert rig.logged() == []


def test_a_decent_request_id_comes_back_and_another_is_replaced(rig: Rig) -> None:
    for sent, answered in (("abc.1-2_3", "abc.1-2_3"), ("x" * 65, "id1"), ("a b", "id3")):
        response = rig.send("POST", "/predict/late", json={"rows": [ROW]}, headers={"x-request-id": sent})
        assert response.headers["x-request-id"] == answered


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code", "word"),
    [
        ("POST", "/predict/lat", {"json": {"rows": [ROW]}}, 404, "unknown_model", "'late'"),
        ("POST", "/predict/zzz", {"json": {"rows": [ROW]}}, 404, "unknown_model", "served: late"),
        ("POST", "/predict/", {"json": {"rows": [ROW]}}, 404, "unknown_model", "late"),
        ("GET", "/predict/late", {}, 405, "method_not_allowed", "POST"),
        ("POST", "/readyz", {}, 405, "method_not_allowed", "GET"),
        ("GET", "/nowhere", {}, 404, "unknown_path", "/predict/NAME"),
        ("POST", "/predict/late", {"content": b"{", "headers": JSON}, 400, "malformed_json", "JSON"),
        ("POST", "/predict/late", {"content": b"", "headers": JSON}, 400, "malformed_json", "JSON"),
        ("POST", "/predict/late", {"data": {"rows": "1"}}, 415, "unsupported_media_type", "application/json"),
        (
            "POST",
            "/predict/late",
            {"content": b" " * (MAX_BODY_BYTES + 1), "headers": JSON},
            413,
            "body_too_large",
            "bytes",
        ),
    ],
)
def test_what_cannot_be_answered_is_answered_with_the_reason(
    rig: Rig, method: str, path: str, options: dict[str, Any], status: int, code: str, word: str
) -> None:
    response = rig.send(method, path, **options)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert word in error["message"]
    assert error["fields"] == []


def test_a_nan_is_answered_with_its_field(rig: Rig) -> None:
    response = rig.send(
        "POST", "/predict/late", content=b'{"rows": [{"origin": "JFK", "tail": "N1", "distance": NaN}]}', headers=JSON
    )
    assert response.status_code == 422
    assert response.json()["error"]["fields"] == [
        {"field": "distance", "message": "is NaN or infinite: send null for a missing value", "row": 0}
    ]


def test_a_body_without_a_stated_length_is_cut_off_at_the_limit(rig: Rig) -> None:
    async def endless() -> Any:
        while True:
            yield b" " * 65_536

    assert rig.send("POST", "/predict/late", content=endless(), headers=JSON).status_code == 413


def test_no_content_type_means_json(rig: Rig) -> None:
    assert rig.send("POST", "/predict/late", content=orjson.dumps({"rows": [ROW]})).status_code == 200


def test_a_store_that_does_not_answer_gives_503_with_a_time_to_retry(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Unavailable("the online store does not answer")

    monkeypatch.setattr(rig.reader, "read", fail)
    response = rig.predict(ROW)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "online store" in response.json()["error"]["message"]


def test_a_bug_of_ours_is_said_without_its_insides(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rig.reader, "read", lambda *_: 1 / 0)
    response = rig.predict(ROW)
    assert response.status_code == 500
    assert "ZeroDivision" not in response.text
    assert "ZeroDivision" in caplog.text


def test_the_pages_for_people_and_machines_answer(rig: Rig) -> None:
    assert rig.send("GET", "/healthz").json()["alive"] is True
    assert rig.send("GET", "/readyz").json() == {
        "ready": True,
        "home": "",
        "models": {"late": 3},
        "epochs": {"late": 3},
    }
    assert "POST /predict/late" in rig.send("GET", "/").text


def test_the_openapi_page_has_every_field_with_its_type(rig: Rig) -> None:
    document = rig.send("GET", "/openapi.json").json()
    request = document["paths"]["/predict/late"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    row = request["properties"]["rows"]["items"]
    assert row["required"] == ["distance", "origin", "tail"]
    assert set(row["properties"]) == {"at", *ROW}
    assert row["properties"]["distance"] == {"type": "number"}
    assert row["properties"]["seats"]["type"] == ["integer", "null"]


def test_a_new_version_answers_from_the_next_request_on(rig: Rig) -> None:
    other = FakeModel(digest="e" * 64)
    before = rig.predict(ROW).json()["predictions"][0]["model"]
    rig.app.serve({"late": served(4, other)})
    after = rig.predict(ROW).json()["predictions"][0]["model"]
    assert (before["version"], after["version"], after["digest"]) == (3, 4, "e" * 64)
    assert [row["version"] for row in rig.logged()] == [3, 4]


@pytest.mark.parametrize(
    ("task", "outputs", "types"),
    [
        (
            Task(kind="multiclass", classes=("böse", "gut")),
            {"class": "gut", "probability.böse": 0.25, "probability.gut": 0.75},
            {
                "class": {"type": "string"},
                "probability.böse": {"type": "number"},
                "probability.gut": {"type": "number"},
            },
        ),
        (
            Task(kind="multiclass", classes=(7, -1)),
            {"class": -1, "probability.7": 0.25, "probability.-1": 0.75},
            {
                "class": {"type": "integer", "format": "int64"},
                "probability.7": {"type": "number"},
                "probability.-1": {"type": "number"},
            },
        ),
        (Task(kind="regression"), {"value": -2.5}, {"value": {"type": "number"}}),
    ],
    ids=["texts", "integers", "numbers"],
)
def test_every_task_is_answered_logged_and_described_in_its_types(
    rig: Rig, task: Task, outputs: Mapping[str, Any], types: Mapping[str, Any]
) -> None:
    class Answering(FakeModel):
        def predict(self, columns: Any) -> dict[str, Any]:
            raw = [[-2.5]] if task.kind == "regression" else [[0.0, math.log(3.0)]]
            return task.answers(task.predictions(np.array(raw * len(columns["distance"]))))

    rig.app.serve({"late": served(4, Answering(signature=replace(SIGNATURE, outputs=task.fields())))})
    answered = [prediction["outputs"] for prediction in rig.predict(ROW, ROW).json()["predictions"]]
    assert answered == [pytest.approx(outputs)] * 2
    assert [type(value) for value in answered[0].values()] == [type(value) for value in outputs.values()]
    logged = [{name: row[f"output.{name}"] for name in outputs} for row in rig.logged()]
    assert logged == answered
    answer = rig.send("GET", "/openapi.json").json()["paths"]["/predict/late"]["post"]["responses"]["200"]
    prediction = answer["content"]["application/json"]["schema"]["properties"]["predictions"]["items"]
    assert prediction["properties"]["outputs"]["properties"] == types


def test_a_model_without_entities_sticks_to_the_request(rig: Rig) -> None:
    signature = replace(SIGNATURE, entities=(), features=(SIGNATURE.features[0],))
    signature = replace(signature, request=(*SIGNATURE.entities, *SIGNATURE.request), features=())

    class NoFeatures(FakeModel):
        def predict(self, columns: Any) -> dict[str, Any]:
            return super().predict({**columns, "weather.wind": [0.0] * len(columns["distance"])})

    rig.app.serve({"late": served(5, NoFeatures(signature=signature))})
    request_id = rig.predict(ROW).json()["request_id"]
    assert rig.logged()[0]["unit"] == request_id


def test_shutdown_writes_the_log(rig: Rig) -> None:
    rig.predict(ROW)
    sent: list[str] = []

    async def go() -> None:
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await rig.app({"type": "lifespan"}, receive, send)

    asyncio.run(go())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert read_log(rig.home, "late").num_rows == 1


def test_a_caller_who_leaves_is_not_answered(rig: Rig) -> None:
    sent: list[Any] = []

    async def go() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await rig.app({"type": "http", "method": "POST", "path": "/predict/late", "headers": []}, receive, send)

    asyncio.run(go())
    assert sent == []


ENTITIES = [{**ROW, "tail": f"N{i}"} for i in range(40)]


def test_the_rows_of_a_request_go_to_their_arms_and_come_back_in_their_order(rig: Rig) -> None:
    rig.app.serve({"late": split(Backing(at_once))})
    found = rig.predict(*ENTITIES).json()["predictions"]
    arms = [p["arm"] for p in found]
    assert set(arms) == {"gold", "new"}
    assert [rig.predict(row).json()["predictions"][0]["arm"] for row in ENTITIES[:10]] == arms[:10]
    for prediction in found:
        new = prediction["arm"] == "new"
        assert prediction["outputs"]["probability"] == (0.5 if new else 0.2)
        assert prediction["model"]["version"] == (4 if new else 3)
        assert prediction["propensity"] == 0.5
    logged = {row["prediction_id"]: row for row in rig.logged()}
    assert len(logged) == 50
    assert all(logged[p["id"]]["arm"] == p["arm"] for p in found)
    assert all(logged[p["id"]]["unit"] == f"JFK|{row['tail']}" for p, row in zip(found, ENTITIES, strict=True))


@pytest.mark.parametrize(("act", "said"), [(broken, "failed"), (never, "late")])
def test_gold_answers_for_an_experiment_that_does_not_and_it_is_counted(rig: Rig, act: Any, said: str) -> None:
    counts: list[Count] = []
    rig.app._answerer = replace(rig.app._answerer, count=lambda name, count: counts.append(count))
    rig.app.serve({"late": split(Backing(act), experiment_s=0.01)})
    found = rig.predict(*ENTITIES).json()["predictions"]
    assert {p["outputs"]["probability"] for p in found} == {0.2}
    assert {p["model"]["version"] for p in found} == {3}
    assigned = [row for row in rig.logged() if row["arm"] == "new"]
    assert {row["instead"] for row in assigned} == {said}
    assert counts == [Count(arm="new", failure=said, rows=len(assigned))]  # type: ignore[arg-type]


def test_an_experiment_that_lacks_a_field_fails_and_gold_answers(rig: Rig) -> None:
    more = replace(SIGNATURE, request=(*SIGNATURE.request, Field(name="wifi", dtype="bool", required=True)))
    backing = Backing(at_once)
    rig.app.serve({"late": split(backing, 1.0, signature=more)})
    (without,) = rig.predict(ROW).json()["predictions"]
    assert (without["outputs"]["probability"], without["model"]["version"]) == (0.2, 3)
    assert backing.rows == 0
    (with_it,) = rig.predict({**ROW, "wifi": True}).json()["predictions"]
    assert (with_it["outputs"]["probability"], with_it["model"]["version"]) == (0.5, 4)
    assert [row["instead"] for row in rig.logged()] == ["failed", None]


def test_an_experiment_never_answers_for_gold(rig: Rig) -> None:
    served = split(Backing(at_once))
    gold = replace(served.versions[3], backbone=Backing(never))
    rig.app.serve({"late": replace(served, versions={3: gold, 4: served.versions[4]}, deadline_s=0.01)})
    response = rig.predict(*ENTITIES)
    assert response.status_code == 503
    assert "did not answer within 0.01 s" in response.json()["error"]["message"]
    assert response.headers["retry-after"] == "1"
    assert rig.logged() == []


def test_versions_that_no_caller_could_ask_both_are_not_served_together() -> None:
    for signature, said in (
        (replace(SIGNATURE, entities=SIGNATURE.entities[:1]), "entity keys"),
        (replace(SIGNATURE, request=(Field(name="seats", dtype="string"),)), "'seats' is string"),
    ):
        with pytest.raises(InvalidInput, match=said):
            split(Backing(at_once), signature=signature)


def test_a_clock_that_jumps_fails_no_request_and_loses_no_record(tmp_path: Path) -> None:
    """Set back by a day, on by a year, and put right again, as by who repairs a machine's clock."""
    day_us = 86_400 * 1_000_000
    clock = StoppedClock()
    with opened(tmp_path, clock=clock) as rig:
        answers = [rig.predict(ROW)]
        for jump in (-day_us, 366 * day_us, -365 * day_us):
            clock.now += jump
            answers.append(rig.predict(ROW))
        assert [answer.status_code for answer in answers] == [200] * 4
        assert len({orjson.dumps(answer.json()["predictions"][0]["outputs"]) for answer in answers}) == 1
        moments = [NOW_US, NOW_US - day_us, NOW_US + 365 * day_us, NOW_US]
        assert rig.reader.asked_us == moments
        logged = rig.logged()
        assert sorted(int(row["at"].timestamp() * 1e6) for row in logged) == sorted(moments)
        assert all(row["latency_us"] >= 0 for row in logged)
