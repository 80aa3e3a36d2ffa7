from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlplat.model.signature import Field
from mlplat.serve.request import MAX_ROWS, Parser
from mlplat.serve.v2 import target
from tests.serve.models import ROW, SIGNATURE, FakeModel
from tests.serve.rig import JSON, NOW_US, Backing, Rig, at_once, opened, served, split

DATATYPES = {
    "origin": "BYTES",
    "tail": "BYTES",
    "distance": "FP64",
    "seats": "INT64",
    "international": "BOOL",
    "scheduled": "BYTES",
}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with opened(tmp_path) as rig:
        yield rig


def tensor(name: str, *data: Any, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": DATATYPES.get(name, "BYTES"),
        "shape": [len(data), 1],
        "data": list(data),
    } | changes


def inputs(*rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [tensor(name, *(row[name] for row in rows)) for name in DATATYPES]


def infer(rig: Rig, tensors: Any, path: str = "/v2/models/late/infer", **more: Any) -> Any:
    body = json.dumps({"inputs": tensors, **more}).encode()
    return rig.send("POST", path, content=body, headers=JSON)


def without(name: str, *others: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(t for t in inputs(ROW) if t["name"] != name), *others]


def test_tensors_are_answered_with_tensors(rig: Rig) -> None:
    response = infer(rig, inputs(ROW, {**ROW, "origin": "XXX"}), id="mine-1")
    assert response.status_code == 200
    assert response.headers["x-request-id"] == "mine-1"
    assert response.json() == {
        "model_name": "late",
        "model_version": "3",
        "id": "mine-1",
        "outputs": [{"name": "probability", "datatype": "FP64", "shape": [2, 1], "data": [0.2, 0.1]}],
    }


def test_both_protocols_leave_the_same_log(rig: Rig) -> None:
    nulls = {**ROW, "tail": None, "seats": None, "international": None, "scheduled": None}
    rig.predict(ROW, nulls, at="1970-01-01T00:00:05Z")
    infer(rig, inputs(ROW, nulls), parameters={"at": "1970-01-01T00:00:05Z"})
    own = {"prediction_id", "request_id"}
    first, second, third, fourth = ({k: v for k, v in row.items() if k not in own} for row in rig.logged())
    assert (first, second) == (third, fourth)
    assert rig.reader.asked_us == [5_000_000] * 4


def test_a_row_may_carry_its_own_now(rig: Rig) -> None:
    times = tensor("at", "1970-01-01T00:00:05Z", None)
    assert infer(rig, [*inputs(ROW, ROW), times]).status_code == 200
    assert rig.reader.asked_us == [5_000_000, NOW_US]


def test_a_field_named_at_is_a_field() -> None:
    asked = Parser(replace(SIGNATURE, request=(Field(name="at", dtype="int64"),)))
    assert asked.dtypes == {"origin": "string", "tail": "string", "at": "int64"}


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": [1]},
        {"data": [[1000]]},
        {"datatype": "FP32"},
        {"datatype": "INT32"},
        {"parameters": {"content_type": "np"}},
    ],
    ids=str,
)
def test_other_forms_of_the_same_tensor_are_taken(rig: Rig, changed: dict[str, Any]) -> None:
    response = infer(rig, without("distance", tensor("distance", 1000, **changed)))
    assert response.json()["outputs"][0]["data"] == [0.2]


def test_optional_fields_may_be_left_out(rig: Rig) -> None:
    assert infer(rig, inputs(ROW)[:3]).status_code == 200


def test_outputs_are_answered_as_they_are_asked_for(rig: Rig) -> None:
    wanted = ["mlplat.prediction_id", "mlplat.version", "probability", "mlplat.arm", "mlplat.propensity"]
    outputs = [{"name": name, "parameters": {"binary_data": False}} for name in wanted]
    found = infer(rig, inputs(ROW), outputs=outputs).json()["outputs"]
    assert [(o["name"], o["datatype"], o["data"]) for o in found] == [
        ("mlplat.prediction_id", "BYTES", ["id1-0"]),
        ("mlplat.version", "INT64", [3]),
        ("probability", "FP64", [0.2]),
        ("mlplat.arm", "BYTES", ["gold"]),
        ("mlplat.propensity", "FP64", [1.0]),
    ]
    assert [o["name"] for o in infer(rig, inputs(ROW), outputs=[]).json()["outputs"]] == ["probability"]


@pytest.mark.parametrize("named", ["x" * 65, "a b", "ü"])
def test_an_id_that_is_not_decent_comes_back_and_is_not_logged(rig: Rig, named: str) -> None:
    response = infer(rig, inputs(ROW), id=named)
    assert response.json()["id"] == named
    assert rig.logged()[0]["request_id"] == response.headers["x-request-id"] == "id0"


def test_an_id_of_half_a_character_is_no_json(rig: Rig) -> None:
    assert infer(rig, inputs(ROW), id="\ud800").status_code == 400


def test_an_id_of_ours_comes_back_where_none_was_sent(rig: Rig) -> None:
    assert infer(rig, inputs(ROW)).json()["id"] == "id0"


def test_the_model_is_described(rig: Rig) -> None:
    described = rig.send("GET", "/v2/models/late").json()
    assert (described["name"], described["versions"], described["platform"]) == ("late", ["3"], "mlplat")
    assert described["inputs"] == [{"name": n, "datatype": d, "shape": [-1, 1]} for n, d in DATATYPES.items()]
    assert described["outputs"] == [{"name": "probability", "datatype": "FP64", "shape": [-1, 1]}]
    assert rig.send("GET", "/v2/models/late/versions/3").json() == described


def test_the_openapi_page_has_its_routes_and_tensors(rig: Rig) -> None:
    document = rig.send("GET", "/openapi.json").json()
    assert {"/v2", "/v2/models/late", "/v2/models/late/ready", "/v2/health/live", "/metrics"} <= set(document["paths"])
    operation = document["paths"]["/v2/models/late/infer"]["post"]
    request = operation["requestBody"]["content"]["application/json"]["schema"]
    found = [tensor["properties"] for tensor in request["properties"]["inputs"]["items"]["oneOf"]]
    assert {tensor["name"]["const"]: tensor["datatype"]["const"] for tensor in found} == DATATYPES
    assert {"200", "401", "408", "422"} <= set(operation["responses"])
    assert operation["security"] == [{}, {"token": []}]


def test_every_page_that_is_described_answers(rig: Rig) -> None:
    paths = rig.send("GET", "/openapi.json").json()["paths"]
    answered = {path: rig.send("GET", path).status_code for path, methods in paths.items() if "get" in methods}
    assert set(answered.values()) == {200}


def test_the_server_says_what_it_is_and_that_it_is_ready(rig: Rig) -> None:
    assert rig.send("GET", "/v2").json() == {"name": "mlplat", "version": "1", "extensions": []}
    assert rig.send("GET", "/v2/health/live").json() == {"live": True}
    assert rig.send("GET", "/v2/health/ready").json() == {"ready": True}
    assert rig.send("GET", "/v2/models/late/versions/3/ready").json() == {"name": "late", "ready": True}


def test_a_pinned_version_is_the_one_that_answers_or_nobody(rig: Rig) -> None:
    assert infer(rig, inputs(ROW), "/v2/models/late/versions/3/infer").status_code == 200
    rig.app.serve({"late": served(4, FakeModel(digest="e" * 64))})
    response = infer(rig, inputs(ROW), "/v2/models/late/versions/3/infer")
    assert response.status_code == 404
    assert response.json() == {"error": "version '3' of 'late' is not what callers may ask for here; version 4 is"}


def test_who_insists_on_gold_is_in_no_experiment(rig: Rig) -> None:
    rig.app.serve({"late": split(Backing(at_once), 1.0)})
    assert infer(rig, inputs(ROW)).json()["model_version"] == "4"
    assert infer(rig, inputs(ROW), "/v2/models/late/versions/3/infer").json()["model_version"] == "3"
    assert infer(rig, inputs(ROW), "/v2/models/late/versions/4/infer").status_code == 404
    assert [(row["arm"], row["version"], row["propensity"]) for row in rig.logged()] == [
        ("new", 4, 1.0),
        ("gold", 3, 1.0),
    ]


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("POST", "/v2/models/lat/infer", 404, "did you mean 'late'"),
        ("GET", "/v2/models/late/infer", 405, "use POST"),
        ("POST", "/v2/models/late", 405, "use GET"),
        ("GET", "/v2/models/late/versions/x/ready", 404, "version 'x'"),
        ("GET", "/v2/models/late/config", 404, "there is no such page"),
        ("GET", "/v2/repository/index", 404, "there is no such page"),
        ("POST", "/v2", 405, "use GET"),
    ],
)
def test_other_paths_are_refused_in_the_protocols_form(
    rig: Rig, method: str, path: str, status: int, word: str
) -> None:
    response = rig.send(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert word in response.json()["error"]


@pytest.mark.parametrize(
    ("tensors", "status", "message"),
    [
        (without("distance"), 422, "field 'distance' of row 0 is missing"),
        (without("distance", tensor("distance", None)), 422, "field 'distance' of row 0 is null"),
        (without("distance", tensor("distance", "far")), 422, "'distance' of row 0 is a string, not a number"),
        (without("distance", tensor("distance", float("nan"))), 422, "'distance' of row 0 is NaN or infinite"),
        (without("distance", tensor("distance", [[1]])), 422, "'distance' of row 0 is a list, not a number"),
        (without("scheduled", tensor("scheduled", "noon")), 422, "'scheduled' of row 0 is not ISO 8601"),
        (without("seats", tensor("seats", 1, datatype="FP64")), 422, "'seats' has datatype 'FP64': send INT64"),
        (without("seats", tensor("seats", 1, datatype=[])), 422, "'seats' has no datatype: send INT64"),
        (without("tail", tensor("tial", "N1")), 422, "did you mean 'tail'"),
        ([*inputs(ROW), tensor("tail", "N1")], 400, "'tail' is there twice"),
        (without("tail", tensor("tail", "N1", "N2")), 400, "not of one number of rows: 'origin' 1"),
        (without("tail", tensor("tail", "N1", shape=[2, 1])), 400, "'tail' has 1 values, and its shape says 2"),
        (without("tail", tensor("tail", "N1", shape=[1, 2])), 400, "'tail': its shape is one value a row"),
        (without("tail", tensor("tail", "N1", shape=[True])), 400, "'tail': its shape is one value a row"),
        (without("tail", tensor("tail", "N1", shape=[])), 400, "'tail': its shape is one value a row"),
        (without("tail", tensor("tail")), 400, "'tail' has no rows"),
        (without("tail", tensor("tail", shape=[MAX_ROWS + 1])), 400, "send several requests"),
        (without("tail", tensor("tail", ["a"], ["b", "c"])), 400, "'tail': every row of 'data' is one value"),
        (
            without("tail", {k: v for k, v in tensor("tail", "N1").items() if k != "data"}),
            400,
            "'tail' has no list as 'data'",
        ),
        (without("tail", tensor("tail", "N1", extra=1)), 400, "unknown key 'extra' of input 'tail'"),
        (without("tail", tensor("tail", "N1", parameters=1)), 400, "'parameters' of input 'tail'"),
        (without("tail", {}), 400, "with a 'name'"),
        ([], 400, "'inputs'"),
        ({}, 400, "'inputs'"),
    ],
)
def test_a_wrong_tensor_is_named(rig: Rig, tensors: Any, status: int, message: str) -> None:
    response = infer(rig, tensors)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
    assert rig.logged() == []


def test_every_wrong_field_is_named_in_the_one_text(rig: Rig) -> None:
    error = infer(rig, [tensor("seats", 1.5)]).json()["error"]
    assert all(f"{name!r} of row 0" in error for name in ("origin", "tail", "distance", "seats"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"id": 7}, "'id' is not a string"),
        ({"parameters": []}, "'parameters' of the request"),
        ({"parameters": {"at": "noon"}}, "field 'at' is not ISO 8601"),
        ({"outputs": [{"name": "probabilty"}]}, "there is no output 'probabilty'; there are 'probability'"),
        ({"outputs": [{"name": "probability"}] * 2}, "twice"),
        ({"outputs": [{}]}, "with a 'name'"),
        ({"outputs": 1}, "not a list"),
        ({"rows": []}, "unknown key 'rows' of the request"),
    ],
)
def test_what_is_wrong_beside_the_tensors_is_said(rig: Rig, more: dict[str, Any], message: str) -> None:
    response = infer(rig, inputs(ROW), **more)
    assert response.status_code in {400, 422}
    assert message in response.json()["error"]
    assert rig.logged() == []


def test_binary_tensors_are_refused_with_what_to_do(rig: Rig) -> None:
    headers = {"Inference-Header-Content-Length": "100", "content-type": "application/octet-stream"}
    response = rig.send("POST", "/v2/models/late/infer", content=b"{}\x00", headers=headers)
    assert response.status_code == 400
    assert "binary_data=False" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v2/models/late", ("late", None, "")),
        ("/v2/models/late/infer", ("late", None, "infer")),
        ("/v2/models/late/versions/7/ready", ("late", "7", "ready")),
        ("/v2/models/", ("", None, "")),
    ],
)
def test_a_path_has_a_name_a_version_and_a_verb(path: str, found: tuple[str, str | None, str]) -> None:
    aimed = target(path)
    assert aimed is not None
    assert (aimed.name, aimed.version, aimed.verb) == found
