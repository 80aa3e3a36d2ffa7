from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import redis
from pydantic import SecretStr

from mlplat import features as F
from mlplat._ray.session import Session, free_port
from mlplat.clock import SystemClock
from mlplat.errors import Conflict, Corrupt, InvalidInput, NotFound, Refused, Unavailable
from mlplat.features.store import FeatureStore
from mlplat.home import home_id, open_home
from mlplat.jobs.demand import Demand
from mlplat.model import artifact
from mlplat.model.architecture import mlp
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model
from mlplat.model.signature import FeatureRef, Field, Signature
from mlplat.model.task import BINARY
from mlplat.serve import state, tokens
from mlplat.serve.endpoint import AsyncEndpoint, Endpoint, alive
from mlplat.serve.http import BodyLimits
from mlplat.serve.log import read_log
from mlplat.serve.policy import FeaturePolicy
from mlplat.serve.servers import Servers
from mlplat.serve.state import Member
from tests.features.support import InProcess
from tests.redis_server import PASSWORD, RedisServer

pytestmark = pytest.mark.ray

SIGNATURE = Signature(
    entities=(Field(name="origin", dtype="string", required=True),),
    request=(Field(name="distance", dtype="float64", required=True), Field(name="wind", dtype="float64")),
    features=(),
    outputs=BINARY.fields(),
)
ROW = {"origin": "JFK", "distance": 1.0, "wind": None}
COLUMNS = {"distance": [1.0], "wind": [None]}


def make_model(seed: int, features: tuple[FeatureRef, ...] = ()) -> Model:
    import torch

    from mlplat.model.build import build, read_weights

    signature = replace(SIGNATURE, features=features)
    names = [field.name for field in signature.inputs()]
    values = np.random.default_rng(seed).normal(size=(len(names), 50))
    encoding = InputEncoding.fit(pa.table(dict(zip(names, values, strict=True))), signature.inputs())
    architecture = mlp((8,))
    torch.manual_seed(seed)
    weights = read_weights(build(architecture, encoding))
    return Model(network=architecture, weights=weights, encoding=encoding, signature=signature)


@dataclass
class Home:
    """A home with two versions of a model, on the shared cluster."""

    path: Path
    session: Session
    models: dict[int, Model]
    paths: dict[int, Path]

    def deploy(self, version: int, **changes: Any) -> Endpoint:
        from mlplat.serve._ray import deploy

        named = {"digest", "path", "compute"} & changes.keys()
        gold = replace(self.member(version), **{name: changes.pop(name) for name in named})
        return deploy(self.session, self.path, lambda: gold, name="late", **changes)

    def member(self, version: int, **changes: Any) -> Member:
        values = {"digest": self.models[version].digest, "path": str(self.paths[version]), "name": "gold"}
        return Member(**{**values, "role": "kept", "version": version, **changes})

    def answer(self, version: int) -> float:
        return float(self.models[version].predict(COLUMNS)["probability"][0])


@pytest.fixture(scope="module")
def home(ray_cluster: Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    from mlplat.serve._ray import undeploy

    path = open_home(tmp_path_factory.mktemp("home"))
    models = {version: make_model(version) for version in (1, 2)}
    paths = {
        version: artifact.save(model, path / "models", golden=artifact.Golden.of(model, COLUMNS))
        for version, model in models.items()
    }
    yield Home(path=path, session=ray_cluster, models=models, paths=paths)
    undeploy(path, "late")


@pytest.fixture
def endpoint(home: Home) -> Iterator[Endpoint]:
    with home.deploy(1) as endpoint:
        yield endpoint


def test_the_endpoint_answers_what_the_model_answers(home: Home, endpoint: Endpoint) -> None:
    (prediction,) = endpoint.predict([ROW])
    assert prediction.outputs["probability"] == pytest.approx(home.answer(1), abs=1e-6)
    assert (prediction.model, prediction.version, prediction.digest) == ("late", 1, home.models[1].digest)
    assert (prediction.arm, prediction.propensity) == ("gold", 1.0)


def test_the_ingress_runs_on_the_loop_of_uvloop(endpoint: Endpoint) -> None:
    assert httpx.get(f"{endpoint.url}/healthz", trust_env=False).json() == {"alive": True, "loop": "uvloop"}


def test_the_ingress_asks_for_no_core_on_a_cluster_of_our_own(home: Home, endpoint: Endpoint) -> None:
    assert endpoint.version == 1
    assert home.session.available()["CPU"] == home.session.total()["CPU"]


def test_mistakes_come_back_as_our_errors(endpoint: Endpoint) -> None:
    with pytest.raises(InvalidInput, match="'distance' of row 0 is missing"):
        endpoint.predict([{"origin": "JFK"}])
    with pytest.raises(InvalidInput, match="cannot be sent"):
        endpoint.predict([{**ROW, "distance": float("nan")}])
    with (
        Endpoint(name="lat", url=endpoint.url, version=1) as other,
        pytest.raises(NotFound, match="did you mean 'late'"),
    ):
        other.predict([ROW])


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/predict/late", {"content": b"{"}, 400),
        ("POST", "/predict/late", {"content": b" " * (2 << 20)}, 413),
        ("POST", "/predict/late", {"content": b'{"rows": [{"origin": "JFK", "distance": NaN}]}'}, 422),
        ("POST", "/predict/late", {"data": {"a": "b"}}, 415),
        ("POST", "/predict/other", {"json": {"rows": [ROW]}}, 404),
        ("DELETE", "/predict/late", {}, 405),
        ("GET", "/nowhere", {}, 404),
    ],
)
def test_bad_requests_are_4xx_through_the_whole_path(
    endpoint: Endpoint, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    response = httpx.request(method, endpoint.url + path, trust_env=False, **options)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_the_log_is_complete_after_a_flush(home: Home, endpoint: Endpoint) -> None:
    from mlplat.serve._ray import flush_log

    sent = [prediction.id for prediction in endpoint.predict([ROW] * 5)]
    counters = flush_log()
    assert counters["appended"] == counters["written"]
    log = read_log(home.path, "late")
    assert set(sent) <= set(log["prediction_id"].to_pylist())


def test_a_new_version_takes_over_without_losing_a_request(home: Home, endpoint: Endpoint) -> None:
    answers: list[tuple[int, float]] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        with Endpoint(name="late", url=endpoint.url, version=1) as client:
            while not stop.is_set():
                try:
                    (prediction,) = client.predict([ROW])
                    answers.append((prediction.version, prediction.outputs["probability"]))
                except Unavailable as error:
                    failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    home.deploy(2).close()
    with home.deploy(1) as back:
        (last,) = back.predict([ROW])
    stop.set()
    thread.join()
    assert failures == []
    assert last.version == 1
    assert {version for version, _ in answers} == {1, 2}
    for version, answer in answers:
        assert answer == pytest.approx(home.answer(version), abs=1e-6)


def test_a_model_that_is_not_whole_is_refused_and_the_old_one_stays(home: Home, endpoint: Endpoint) -> None:
    with pytest.raises(NotFound, match="no model artifact"):
        home.deploy(2, path="/nowhere")
    with pytest.raises(Corrupt):
        home.deploy(2, digest="0" * 64)
    assert endpoint.predict([ROW])[0].version == 1
    assert state.read(home.path)["late"].version == 1


def test_a_replica_that_is_killed_returns_with_what_it_served(home: Home, endpoint: Endpoint) -> None:
    import ray

    before = endpoint.predict([ROW])
    (replica,) = [name["name"] for name in ray.util.list_named_actors(all_namespaces=True) if "ingress" in name["name"]]
    ray.kill(ray.get_actor(replica, namespace="serve"), no_restart=False)
    home.deploy(2).close()
    home.deploy(1).close()
    assert endpoint.predict([ROW])[0].outputs == before[0].outputs


def test_another_port_or_home_on_the_same_cluster_is_a_conflict(home: Home, endpoint: Endpoint, tmp_path: Path) -> None:
    from mlplat.serve._ray import deploy

    with pytest.raises(Conflict, match="port"):
        home.deploy(1, port=free_port())
    with pytest.raises(Conflict, match="home"):
        deploy(home.session, tmp_path, lambda: home.member(1), name="late")
    assert endpoint.predict([ROW])


def test_undeploy_stops_answering_and_deploy_answers_again(home: Home, endpoint: Endpoint) -> None:
    from mlplat.serve._ray import undeploy

    assert alive(endpoint.url)
    undeploy(home.path, "late")
    assert state.read(home.path) == {}
    assert not alive(endpoint.url)
    with pytest.raises((NotFound, Unavailable)):
        endpoint.predict([ROW])
    with home.deploy(2) as again:
        assert again.predict([ROW])[0].version == 2


def test_other_limits_of_a_body_hold_at_once(home: Home, endpoint: Endpoint) -> None:
    rows = [ROW] * 100
    assert len(endpoint.predict(rows)) == 100
    with home.deploy(1, body=BodyLimits(body_bytes=2_000)) as small:
        with pytest.raises(InvalidInput, match="the body is larger than 2000 bytes: send fewer rows at a time"):
            small.predict(rows)
        assert len(small.predict(rows[:10])) == 10
    assert state.read(home.path)["late"].body == BodyLimits(body_bytes=2_000)
    with home.deploy(1) as again:
        assert len(again.predict(rows)) == 100


def test_another_online_store_needs_another_deployment(home: Home, endpoint: Endpoint) -> None:
    assert endpoint.version == 1
    with pytest.raises(Conflict, match="what this cluster serves reads another online store") as caught:
        home.deploy(2, servers=Servers(online=SecretStr("redis://:hunter2@host")))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(
        Conflict, match="what this cluster serves shares its answers by another cache, or by none"
    ) as caught:
        home.deploy(2, servers=Servers(shared_cache=SecretStr("redis://:hunter2@host")))
    assert "hunter2" not in str(caught.value)


def test_the_next_life_of_an_endpoint_knows_what_was_answered_in_the_first(
    home: Home, redis_server: RedisServer, tmp_path: Path
) -> None:
    """And nothing under its home holds the password."""
    from mlplat.serve._ray import deploy, undeploy

    undeploy(home.path, "late")  # a cluster serves one home at a time
    own = open_home(tmp_path / "home")
    gold = home.member(1, compute=Demand.parse("cpu:1").to_json())
    servers = Servers(shared_cache=SecretStr(redis_server.url))
    said = []
    for _ in range(2):
        with deploy(home.session, own, lambda: gold, name="shared", servers=servers, cache_bytes=1 << 20) as served:
            until(lambda: shared_cache_is_up(served))
            (prediction,) = served.predict([ROW])
            assert prediction.outputs["probability"] == pytest.approx(home.answer(1), abs=1e-6)
            said.append([line for line in metrics_of(served) if line.startswith("mlplat_shared_cache_rows_total")])
            until(lambda: keys_of(own, redis_server) == 1)
            undeploy(own, "shared")
    labels = 'mlplat_shared_cache_rows_total{endpoint="shared",result="%s"} 1.0'
    assert said == [[labels % "miss"], [labels % "hit"]]
    written = [file for file in own.rglob("*") if file.is_file()]
    assert not any(PASSWORD.encode() in file.read_bytes() for file in written)


def metrics_of(endpoint: Endpoint) -> list[str]:
    return httpx.get(f"{endpoint.url}/metrics", trust_env=False).text.splitlines()


def shared_cache_is_up(endpoint: Endpoint) -> bool:
    return {f'mlplat_shared_cache_up{{call="{call}"}} 1.0' for call in ("read", "write")} <= set(metrics_of(endpoint))


def keys_of(home: Path, server: RedisServer) -> int:
    with redis.Redis.from_url(server.url) as raw:
        return len(list(raw.scan_iter(match=f"{home_id(home)}#answers/*")))


def test_a_replica_reads_features_from_redis(home: Home, redis_server: RedisServer, tmp_path: Path) -> None:
    """And nothing under its home holds the password."""
    from mlplat.serve._ray import deploy, undeploy

    undeploy(home.path, "late")  # a cluster serves one home at a time
    source = F.source("flown", key="origin", time="at")
    view = F.view(source)(type("newest", (), {"__annotations__": {"wind": float}, "wind": F.latest("wind")}))
    own = open_home(tmp_path / "home")
    store = FeatureStore(own, clock=SystemClock(), pool=InProcess(), online=redis_server.url)
    store.apply(view)
    store.ingest(source, [{"origin": "JFK", "at": datetime(2013, 1, 1, tzinfo=UTC), "wind": 7.0}])
    model = make_model(1, features=(view.ref,))
    path = artifact.save(model, own / "models", golden=artifact.Golden.of(model, {**COLUMNS, "newest.wind": [7.0]}))
    servers = Servers(online=SecretStr(redis_server.url))
    gold = Member(name="gold", role="kept", version=1, digest=model.digest, path=str(path))
    policy = FeaturePolicy(missing={"newest": "refuse"}, features_s=30.0)
    served = deploy(home.session, own, lambda: gold, name="on_redis", servers=servers, policy=policy)
    try:
        (prediction,) = served.predict([ROW])
        with pytest.raises(InvalidInput, match="'origin' of row 1 has no features of view 'newest'"):
            served.predict([ROW, {**ROW, "origin": "XXX"}])
    finally:
        served.close()
        undeploy(own, "on_redis")
        store.close()
    assert prediction.features == {"newest": "ok"}
    written = [file for file in own.rglob("*") if file.is_file()]
    assert not any(PASSWORD.encode() in file.read_bytes() for file in written)


def test_the_open_inference_protocol_gives_the_same_answer(home: Home, endpoint: Endpoint) -> None:
    body = {
        "id": "mine",
        "inputs": [
            {"name": "origin", "datatype": "BYTES", "shape": [1, 1], "data": ["JFK"]},
            {"name": "distance", "datatype": "FP64", "shape": [1, 1], "data": [1.0]},
            {"name": "wind", "datatype": "FP64", "shape": [1, 1], "data": [None]},
        ],
    }
    answer = httpx.post(f"{endpoint.url}/v2/models/late/versions/1/infer", json=body, trust_env=False).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("late", "1", "mine")
    assert answer["outputs"][0]["data"] == [pytest.approx(home.answer(1), abs=1e-6)]


def test_the_endpoint_tells_prometheus_what_it_did(endpoint: Endpoint) -> None:
    endpoint.predict([ROW])
    text = httpx.get(f"{endpoint.url}/metrics", trust_env=False).text
    assert 'mlplat_rows_total{arm="gold",endpoint="late",version="1"}' in text
    assert "mlplat_log_rows_appended_total" in text


def test_a_token_is_asked_for_once_there_is_one(home: Home, endpoint: Endpoint) -> None:
    token = tokens.create(home.path, "late", now_us=SystemClock().now_us())
    try:
        until(lambda: refused(endpoint))
        with Endpoint(name="late", url=endpoint.url, token=token) as caller:
            assert caller.predict([ROW])[0].version == 1
        assert asyncio.run(asked(endpoint.url, token)) == 1
    finally:
        (home.path / "tokens.json").unlink()
    until(lambda: not refused(endpoint))


async def asked(url: str, token: str) -> int:
    async with AsyncEndpoint(name="late", url=url, token=token) as endpoint:
        return (await endpoint.predict([ROW]))[0].version


def refused(endpoint: Endpoint) -> bool:
    try:
        endpoint.predict([ROW])
    except Refused:
        return True
    return False


def until(true: Callable[[], bool]) -> None:
    """The endpoint sees other tokens within a second."""
    clock = SystemClock()
    deadline_s = clock.elapsed_s() + 10
    while not true():
        assert clock.elapsed_s() < deadline_s


def test_callers_who_never_finish_their_request_keep_nobody_waiting(home: Home, endpoint: Endpoint) -> None:
    """More of them than the replica takes and queues at once: the proxy waits for a request until it is whole."""
    host, port = endpoint.url.removeprefix("http://").split(":")
    head = b"POST /predict/late HTTP/1.1\r\nHost: x\r\n"
    begun = [
        b"",
        b"POST /pre",
        head,
        head + b"Content-Length: 90\r\n\r\n",
        head + b'Content-Length: 90\r\n\r\n{"rows":',
    ]
    with ExitStack() as stack:
        for i in range(1_500):
            caller = stack.enter_context(socket.create_connection((host, int(port))))
            caller.sendall(begun[i % len(begun)])
        answers = [endpoint.predict([ROW])[0].outputs["probability"] for _ in range(50)]
    assert answers == [pytest.approx(home.answer(1), abs=1e-6)] * 50
