"""What an endpoint does about features that are missing, expired or late, as it was declared."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput, Unavailable
from mlplat.features.online import Status
from mlplat.model.signature import FeatureRef, Field
from mlplat.serve.lookup import Lookup
from mlplat.serve.policy import Expired, FeaturePolicy, Missing, RefusedFeatures
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from mlplat.serve.shadow import Shadows
from tests.serve.models import ROW, SIGNATURE, FakeModel
from tests.serve.rig import Backing, Rig, StoppedClock, at_once, opened, split
from tests.serve.test_metrics import value

UNKNOWN = {**ROW, "origin": "XXX"}
OLD = {**ROW, "origin": "LGA"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with opened(tmp_path) as rig:
        yield rig


def under(policy: FeaturePolicy, served: Served | None = None) -> Mapping[str, Served]:
    if served is None:
        table = RoutingTable(epoch=3, salt="late", arms=(Arm(name=GOLD, version=3, share=1.0),))
        served = Served.of("late", table, [Version.of(3, FakeModel())])
    return {"late": Served.of("late", served.table, served.versions.values(), policy=policy)}


def test_without_a_word_the_model_sees_null(rig: Rig) -> None:
    missing, expired = rig.predict(UNKNOWN, OLD).json()["predictions"]
    assert (missing["features"]["weather"], expired["features"]["weather"]) == ("missing", "expired")
    assert (missing["outputs"], expired["outputs"]) == ({"probability": 0.1}, {"probability": 0.1})


def test_what_has_expired_is_kept_and_says_so(rig: Rig) -> None:
    rig.app.serve(under(FeaturePolicy(expired="keep")))
    for rows in ([OLD], [ROW, OLD, UNKNOWN]):
        found = {p["features"]["weather"]: p["outputs"] for p in rig.predict(*rows).json()["predictions"]}
        assert found["expired"] == {"probability": pytest.approx(0.3)}
    row = next(row for row in rig.logged() if row["origin"] == "LGA")
    assert (row["weather.wind"], row["status.weather"]) == (20.0, "expired")


def test_only_views_that_are_named_are_kept(rig: Rig) -> None:
    rig.app.serve(under(FeaturePolicy(expired={"aircraft": "keep"})))
    rig.predict({**OLD, "tail": "OLD"})
    (row,) = rig.logged()
    assert (row["weather.wind"], row["aircraft.delay"]) == (None, 7)
    assert (row["status.weather"], row["status.aircraft"]) == ("expired", "expired")


@pytest.mark.parametrize(
    ("policy", "row", "view", "status"),
    [
        (FeaturePolicy(missing="refuse"), UNKNOWN, "weather", "missing"),
        (FeaturePolicy(missing={"weather": "refuse"}), UNKNOWN, "weather", "missing"),
        (FeaturePolicy(expired="refuse"), OLD, "weather", "expired"),
        (FeaturePolicy(expired={"aircraft": "refuse"}), {**ROW, "tail": "OLD"}, "aircraft", "expired"),
    ],
)
def test_a_row_that_is_refused_is_named_with_its_view_and_counted(
    rig: Rig, policy: FeaturePolicy, row: Mapping[str, Any], view: str, status: str
) -> None:
    rig.app.serve(under(policy))
    assert rig.predict(ROW).status_code == 200
    response = rig.predict(ROW, row)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "features_refused")
    (field,) = error["fields"]
    assert (field["field"], field["row"]) == ("origin" if view == "weather" else "tail", 1)
    assert repr(view) in field["message"]
    assert "leave the row out" in error["message"]
    assert len(rig.logged()) == 1
    labels = {"endpoint": "late", "view": view, "status": status}
    assert value(rig, "mlplat_refused_feature_rows_total", labels) == 1
    refused = {"endpoint": "late", "arm": "", "version": "", "status": "422"}
    assert value(rig, "mlplat_requests_total", refused) == 1


def test_what_the_policy_does_not_refuse_is_answered(rig: Rig) -> None:
    rig.app.serve(under(FeaturePolicy(missing={"aircraft": "refuse"}, expired={"weather": "refuse"})))
    assert rig.predict(UNKNOWN, {**ROW, "tail": "OLD"}).status_code == 200
    assert rig.predict({**ROW, "tail": None}).status_code == 422


def test_the_open_inference_protocol_says_the_same(rig: Rig) -> None:
    rig.app.serve(under(FeaturePolicy(missing="refuse")))
    types = {"distance": "FP64", "seats": "INT64", "international": "BOOL"}
    inputs = [
        {"name": name, "datatype": types.get(name, "BYTES"), "shape": [1], "data": [data]}
        for name, data in UNKNOWN.items()
    ]
    response = rig.send("POST", "/v2/models/late/infer", json={"inputs": inputs})
    assert response.status_code == 422
    assert response.json()["error"].startswith("field 'origin' of row 0 has no features of view 'weather'")
    pinned = rig.send("POST", "/v2/models/late/versions/3/infer", json={"inputs": inputs})
    assert pinned.status_code == 422


words: Mapping[str, st.SearchStrategy[Any]] = {
    argument: st.sampled_from(kinds) | st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(kinds))
    for argument, kinds in (("missing", get_args(Missing)), ("expired", get_args(Expired)))
}
statuses = st.lists(st.sampled_from(get_args(Status)), min_size=1, max_size=3)


def declared(of: str | Mapping[str, str], view: str) -> str:
    return of if isinstance(of, str) else of.get(view, "null")


@pytest.mark.slow
@given(st.fixed_dictionaries(dict(words)), st.lists(st.tuples(*[st.sampled_from(get_args(Status))] * 2), max_size=4))
def test_a_request_is_refused_if_one_status_of_one_row_is(
    said: Mapping[str, Any], rows: list[tuple[Status, Status]]
) -> None:
    policy = FeaturePolicy(**said)
    rules = policy.rules({"a", "b"})
    refs = [FeatureRef(view=v, version="1", keys=("k",), fields=(Field(name="x", dtype="int64"),)) for v in ("a", "b")]
    expected = set()
    for i, row in enumerate(rows):
        for view, status in zip(("a", "b"), row, strict=True):
            argument = {"ok": None, "expired": "expired"}.get(status, "missing")
            if argument is not None and declared(said[argument], view) == "refuse":
                expected.add((view, status, 10 + i))
    columns = {view: [row[i] for row in rows] for i, view in enumerate(("a", "b"))}
    refused: RefusedFeatures | None = None
    try:
        rules.check(refs, columns, [10 + i for i in range(len(rows))])
    except RefusedFeatures as error:
        refused = error
    assert (refused is not None) == bool(expected)
    if refused is not None:
        assert refused.views == {view for view, _, _ in expected}
        assert refused.counts.total() == len(expected) == len(refused.fields)
        assert {field.row for field in refused.fields} == {row for _, _, row in expected}
        assert (refused.status == 503) == bool({"late", "unavailable"} & {status for _, status, _ in expected})
    assert rules.keep == {view for view in ("a", "b") if declared(said["expired"], view) == "keep"}


def test_words_views_and_times_that_are_none_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"missing='nil' is not 'null' or 'refuse'"):
        FeaturePolicy(missing=cast(Any, "nil"))
    with pytest.raises(InvalidInput, match=r"missing\['weather'\]='keep' is not 'null' or 'refuse'"):
        FeaturePolicy(missing=cast(Any, {"weather": "keep"}))
    with pytest.raises(InvalidInput, match=r"expired=None: 'null' or 'keep' or 'refuse', or a mapping"):
        FeaturePolicy(expired=cast(Any, None))
    with pytest.raises(InvalidInput, match=r"expired\['w'\]=\['keep'\] is not"):
        FeaturePolicy(expired=cast(Any, {"w": ["keep"]}))
    with pytest.raises(InvalidInput, match=r"expired\[7\]: a view is named by a text"):
        FeaturePolicy(expired=cast(Any, {7: "keep"}))
    for seconds in (0, -1.0, float("nan"), float("inf"), "soon"):
        with pytest.raises(InvalidInput, match="features_s="):
            FeaturePolicy(features_s=cast(Any, seconds))
    policy = FeaturePolicy(expired={"weather": "keep", "wether": "refuse"})
    with pytest.raises(InvalidInput, match=r"expired names view 'wether', .* it reads aircraft, weather"):
        policy.check_views({"weather", "aircraft"})
    FeaturePolicy(missing="refuse", expired={}).check_views(())


OTHERS = replace(
    SIGNATURE,
    features=(
        *SIGNATURE.features,
        FeatureRef(view="airport", version="1", keys=("origin",), fields=(Field(name="runways", dtype="int64"),)),
    ),
)


def test_a_row_is_refused_whatever_the_arm_and_nobody_answers_for_it(rig: Rig) -> None:
    rig.app.serve(under(FeaturePolicy(missing="refuse"), split(new := Backing(at_once), 1.0)))
    assert rig.predict(UNKNOWN, ROW).status_code == 422
    assert new.rows == 0
    assert rig.logged() == []
    failed = {"endpoint": "late", "arm": "new", "failure": "failed"}
    assert value(rig, "mlplat_arm_failures_total", failed) is None


def test_what_an_experiment_alone_reads_is_for_it_to_miss_and_gold_answers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = rig.reader.read

    def without_airport(refs: Any, keys: Any, at_us: Any, keep: Any = ()) -> Any:
        found = read([ref for ref in refs if ref.view != "airport"], keys, at_us, keep)
        more: dict[str, Any] = {"airport.runways": [None] * len(at_us)} if len(refs) > 2 else {}
        status: dict[str, Any] = {"airport": ["missing"] * len(at_us)} if more else {}
        return replace(found, columns={**found.columns, **more}, status={**found.status, **status})

    monkeypatch.setattr(rig.reader, "read", without_airport)
    rig.app.serve(under(FeaturePolicy(missing="refuse"), split(new := Backing(at_once), 1.0, signature=OTHERS)))
    (prediction,) = rig.predict(ROW).json()["predictions"]
    assert (prediction["arm"], prediction["model"]["version"], new.rows) == ("new", 3, 0)
    failed = {"endpoint": "late", "arm": "new", "failure": "failed"}
    assert value(rig, "mlplat_arm_failures_total", failed) == 1


def test_a_shadow_is_not_shown_what_is_refused_and_that_is_not_held_against_it(rig: Rig) -> None:
    async def go() -> None:
        answerer = rig.app._answerer
        shadows = Shadows(answerer, StoppedClock())
        table = RoutingTable(
            epoch=1,
            salt="late",
            arms=(Arm(name=GOLD, version=3, share=1.0),),
            mirrors=(Arm(name="s", version=4, share=1.0),),
        )
        versions = [Version.of(3, FakeModel()), Version.of(4, FakeModel(), Backing(at_once))]
        served = Served.of("late", table, versions, policy=FeaturePolicy(missing="refuse"))
        shown = replace(answerer, mirror=shadows.offer)
        with pytest.raises(RefusedFeatures):
            await shown.answer(served, orjson.dumps({"rows": [UNKNOWN]}), "r")
        while others := asyncio.all_tasks() - {cast(Any, asyncio.current_task())}:
            await asyncio.wait(others)
        counts = shadows.counts["late", "s"]
        assert (counts.sent, counts.refused, counts.failed, counts.answered) == (1, 1, 0, 0)

    asyncio.run(go())
    assert rig.logged() == []


class Down:
    """A store that does not answer."""

    def read(self, *_: object) -> Any:
        raise Unavailable("the online store at redis://h does not answer")

    def prepare(self, *_: object) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(("missing", "status"), [("null", 200), ("refuse", 503)])
def test_a_server_that_fails_leaves_the_rows_to_the_policy(rig: Rig, missing: Missing, status: int) -> None:
    lookup = Lookup(Down())
    rig.app._answerer = replace(rig.app._answerer, lookup=lookup)
    rig.app.serve(under(FeaturePolicy(missing=missing)))
    response = rig.predict(ROW, ROW)
    lookup.close()
    assert response.status_code == status
    if status == 503:
        assert response.headers["retry-after"] == "1"
        assert "view 'weather'" in response.json()["error"]["message"]
        labels = {"endpoint": "late", "view": "aircraft", "status": "unavailable"}
        assert value(rig, "mlplat_refused_feature_rows_total", labels) == 2
    else:
        assert response.json()["predictions"][0]["features"] == {"weather": "unavailable", "aircraft": "unavailable"}
        labels = {"endpoint": "late", "view": "weather", "status": "unavailable"}
        assert value(rig, "mlplat_feature_rows_total", labels) == 2


def test_the_openapi_page_says_which_statuses_an_answer_may_have(rig: Rig) -> None:
    def features() -> Any:
        operation = rig.send("GET", "/openapi.json").json()["paths"]["/predict/late"]["post"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        return schema["properties"]["predictions"]["items"]["properties"]["features"]

    assert features()["properties"]["weather"]["enum"] == list(get_args(Status))
    assert features()["description"] == "by view; features that are not ok are null"
    rig.app.serve(under(FeaturePolicy(missing={"weather": "refuse"}, expired={"aircraft": "keep"})))
    assert features()["properties"]["weather"]["enum"] == ["ok", "expired"]
    assert features()["properties"]["aircraft"]["enum"] == list(get_args(Status))
    assert features()["description"].endswith("but for expired ones of aircraft")
