from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplat.errors import InvalidInput, Unavailable
from mlplat.model.signature import Field
from mlplat.model.task import Task
from mlplat.serve.answer import Answerer
from mlplat.serve.app import App
from mlplat.serve.dispatch import Count
from mlplat.serve.http import MAX_BODY_BYTES
from mlplat.serve.log import PredictionLog, read_log
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from tests.serve.models import ROW, SIGNATURE, FakeModel, FakeReader

NOW_US = 1_378_029_600_000_000
JSON = {"content-type": "application/json"}


class StoppedClock:
    def now_us(self) -> int:
        return NOW_US

    def elapsed_s(self) -> float:
        return 0.0


def served(version: int = 3, model: Any = None) -> Served:
    table = RoutingTable(epoch=version, salt="late", arms=(Arm(name=GOLD, version=version, share=1.0),))
    return Served.of("late", table, [Version.of(version, model or FakeModel())])


@dataclass
class Rig:
    app: App
    home: Path
    log: PredictionLog
    reader: FakeReader

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(go())

    def predict(self, *rows: Mapping[str, Any], **envelope: Any) -> httpx.Response:
        return self.send("POST", "/predict/late", json={"rows": rows, **envelope})

    def logged(self) -> list[dict[str, Any]]:
        self.log.flush()
        return list(read_log(self.home, "late").to_pylist())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    log, reader, ids = PredictionLog(tmp_path), FakeReader(), count()
    answerer = Answerer(reader=reader, log=log, clock=StoppedClock(), new_id=lambda: f"id{next(ids)}")
    yield Rig(app=App(answerer, {"late": served()}, on_stop=log.close), home=tmp_path, log=log, reader=reader)
    log.close()


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
    assert rig.send("GET", "/readyz").json() == {"ready": True, "models": {"late": 3}, "epochs": {"late": 3}}
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


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ROW, "at", "x"]) | st.text(), inner, max_size=8)
    ),
    max_leaves=12,
)
VALUES = JSONISH | st.sampled_from(
    [*ROW.values(), "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", 2**63, 1e308]
)
ROWS = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys([*ROW, "at"], VALUES)), max_size=3)
ENVELOPES = st.fixed_dictionaries({"rows": ROWS}, optional={"at": VALUES})
BODIES: st.SearchStrategy[bytes] = st.binary(max_size=200) | (ENVELOPES | JSONISH).map(
    lambda value: json.dumps(value).encode()
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES)
def test_no_body_ever_gives_a_500(rig: Rig, body: bytes) -> None:
    response = rig.send("POST", "/predict/late", content=body, headers=JSON)
    assert response.status_code in {200, 400, 422}, response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"code", "message", "fields"}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "BREW"]),
    path=st.text(max_size=30) | st.text(max_size=10).map(lambda name: "/predict/" + name),
    headers=st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=3),
    body=st.binary(max_size=50),
)
def test_no_request_ever_gives_a_500(rig: Rig, method: str, path: str, headers: Any, body: bytes) -> None:
    status = asyncio.run(raw(rig.app, {"method": method, "path": path, "headers": headers}, body))
    assert 200 <= status < 500


async def raw(app: Callable[..., Any], scope: Mapping[str, Any], body: bytes) -> int:
    """Past the client, which would mend what it finds odd."""
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    await app({"type": "http", **scope}, receive, send)
    return statuses[0]


class Backing:
    """A backbone that does what it is told to, and remembers how many rows it had."""

    def __init__(self, act: Callable[[], Awaitable[None]], value: float = 0.5) -> None:
        self.act, self.value, self.rows = act, value, 0

    async def predict(self, columns: Any, rows: int) -> dict[str, list[float]]:
        self.rows += rows
        await self.act()
        return {"probability": [self.value] * rows}

    async def close(self) -> None: ...


async def at_once() -> None: ...


async def never() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise RuntimeError("the graphics card fell out")


def split(challenger: Any, share: float = 0.5, *, signature: Any = SIGNATURE, **limits: float) -> Served:
    arms = (Arm(name=GOLD, version=3, share=1 - share), Arm(name="new", version=4, share=share))
    other = Version.of(4, FakeModel(signature=signature, digest="e" * 64), challenger)
    return Served.of(
        "late", RoutingTable(epoch=4, salt="late", arms=arms), [Version.of(3, FakeModel()), other], **limits
    )


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
