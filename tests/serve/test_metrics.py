from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlplat.serve.cache import Cache
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from mlplat.serve.shadow import Shadows
from tests.serve.models import ROW, FakeModel
from tests.serve.rig import Backing, Rig, StoppedClock, at_once, broken, opened, split

GOLD_3 = {"endpoint": "late", "arm": "gold", "version": "3"}
REFUSED = {"endpoint": "late", "arm": "", "version": ""}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with opened(tmp_path) as rig:
        yield rig


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(rig: Rig, name: str, labels: Mapping[str, str]) -> float | None:
    return samples(rig.send("GET", "/metrics").text).get((name, frozenset(labels.items())))


def test_requests_and_rows_are_counted_by_arm_and_version(rig: Rig) -> None:
    rig.predict(ROW, ROW)
    rig.predict(ROW)
    assert value(rig, "mlplat_requests_total", {**GOLD_3, "status": "200"}) == 2
    assert value(rig, "mlplat_rows_total", GOLD_3) == 3
    assert value(rig, "mlplat_latency_seconds_count", GOLD_3) == 2
    assert value(rig, "mlplat_latency_seconds_bucket", {**GOLD_3, "le": "0.0002"}) == 2
    assert value(rig, "mlplat_in_flight", {"endpoint": "late"}) == 0


def test_refused_requests_are_counted_by_status(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.predict({})
    rig.send("GET", "/predict/late")
    rig.send("POST", "/v2/models/late/infer", json={})
    rig.send("POST", "/predict/nobody", json={})
    monkeypatch.setattr(rig.reader, "read", lambda *_: 1 / 0)
    rig.predict(ROW)
    found = {status: value(rig, "mlplat_requests_total", {**REFUSED, "status": status}) for status in ("400", "405")}
    assert found == {"400": 1, "405": 1}
    assert value(rig, "mlplat_requests_total", {**REFUSED, "status": "422"}) == 1
    assert value(rig, "mlplat_requests_total", {**REFUSED, "status": "500"}) == 1
    assert value(rig, "mlplat_rows_total", GOLD_3) is None


def test_features_that_were_not_found_are_counted_by_view(rig: Rig) -> None:
    assert value(rig, "mlplat_feature_rows_total", {"endpoint": "late", "view": "tail", "status": "missing"}) is None
    rig.predict(ROW, {**ROW, "origin": "XXX"}, {**ROW, "origin": "YYY", "tail": None})
    for view, count in (("weather", 2), ("aircraft", 1)):
        assert value(rig, "mlplat_feature_rows_total", {"endpoint": "late", "view": view, "status": "missing"}) == count
        assert value(rig, "mlplat_feature_rows_total", {"endpoint": "late", "view": view, "status": "expired"}) == 0


def test_the_rows_of_the_log_are_told(rig: Rig) -> None:
    rig.predict(ROW, ROW)
    rig.log.flush()
    found = {name: value(rig, f"mlplat_log_rows_{name}_total", {}) for name in ("appended", "written", "dropped")}
    assert found == {"appended": 2, "written": 2, "dropped": 0}
    assert value(rig, "mlplat_log_rows_waiting", {}) == 0


ENTITIES = [{**ROW, "tail": f"N{i}"} for i in range(40)]


def test_a_request_of_several_arms_is_one_request_and_rows_of_each(rig: Rig) -> None:
    rig.app.serve({"late": split(Backing(at_once))})
    answered = [p["arm"] for p in rig.predict(*ENTITIES).json()["predictions"]]
    both = {"endpoint": "late", "arm": "several", "version": "several"}
    assert value(rig, "mlplat_requests_total", {**both, "status": "200"}) == 1
    assert value(rig, "mlplat_latency_seconds_count", both) == 1
    assert value(rig, "mlplat_rows_total", GOLD_3) == answered.count("gold")
    new = {"endpoint": "late", "arm": "new", "version": "4"}
    assert value(rig, "mlplat_rows_total", new) == answered.count("new")


def test_the_arm_is_the_one_that_answered(rig: Rig) -> None:
    rig.app.serve({"late": split(Backing(at_once), 1.0)})
    rig.predict(ROW)
    new = {"endpoint": "late", "arm": "new", "version": "4"}
    assert value(rig, "mlplat_requests_total", {**new, "status": "200"}) == 1
    assert value(rig, "mlplat_rows_total", new) == 1


def test_rows_that_gold_answered_for_an_arm_are_counted_against_it(rig: Rig) -> None:
    rig.app.serve({"late": split(Backing(broken), 1.0)})
    rig.predict(ROW, ROW)
    failed = {"endpoint": "late", "arm": "new", "failure": "failed"}
    assert value(rig, "mlplat_arm_failures_total", failed) == 2
    assert value(rig, "mlplat_rows_total", {"endpoint": "late", "arm": "new", "version": "3"}) == 2


def test_a_request_is_in_flight_while_its_body_comes(rig: Rig) -> None:
    seen: list[float | None] = []

    async def go() -> None:
        async def receive() -> Any:
            metrics = rig.app._metrics
            assert metrics is not None
            seen.append(samples(metrics.text().decode())["mlplat_in_flight", frozenset({("endpoint", "late")})])
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError

        await rig.app({"type": "http", "method": "POST", "path": "/predict/late", "headers": []}, receive, send)

    asyncio.run(go())
    assert seen == [1]
    assert value(rig, "mlplat_in_flight", {"endpoint": "late"}) == 0


def test_only_get_reads_them_and_in_prometheus_form(rig: Rig) -> None:
    assert rig.send("POST", "/metrics").status_code == 405
    assert rig.send("GET", "/metrics").headers["content-type"].startswith("text/plain; version=")


def test_caches_and_shadows_are_told_of_when_somebody_looks(tmp_path: Path) -> None:
    clock = StoppedClock()
    with opened(tmp_path) as rig:
        cache: Cache[Any] = Cache(max_bytes=1 << 20, clock=clock)
        arms = (Arm(name=GOLD, version=3, share=1.0),)
        mirrors = (Arm(name="watching", version=4, share=1.0),)
        table = RoutingTable(epoch=5, salt="late", arms=arms, mirrors=mirrors)
        versions = [Version.of(3, FakeModel(), cache=cache), Version.of(4, FakeModel(), Backing(at_once))]
        answerer = rig.app._answerer
        shadows = Shadows(answerer, clock)
        rig.app._answerer = replace(answerer, mirror=shadows.offer)
        rig.app._metrics.watch(lambda: rig.app.served, shadows)
        rig.app.serve({"late": Served.of("late", table, versions, cache=cache)})
        for _ in range(3):
            rig.predict(ROW)
        found = {
            result: value(rig, "mlplat_cache_rows_total", {"endpoint": "late", "result": result})
            for result in ("hit", "miss")
        }
        assert found == {"hit": 2, "miss": 1}
        assert value(rig, "mlplat_cache_bytes", {"endpoint": "late"}) == cache.counters().bytes > 0
        shown = {"endpoint": "late", "arm": "watching"}
        assert value(rig, "mlplat_shadow_requests_total", {**shown, "state": "eligible"}) == 3
        assert value(rig, "mlplat_shadow_requests_total", {**shown, "state": "sent"}) == 3
