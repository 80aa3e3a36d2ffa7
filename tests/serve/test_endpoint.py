from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplat._ray.connect import free_port
from mlplat.errors import InvalidInput, MlplatError, NotFound, Refused, Unavailable
from mlplat.serve.endpoint import AsyncEndpoint, Endpoint, Prediction, alive, epochs
from tests.certificates import certificate

ANSWER = {
    "request_id": "r",
    "predictions": [
        {
            "id": "r-0",
            "outputs": {"probability": 0.25},
            "model": {"name": "late", "version": 3, "digest": "d"},
            "arm": "gold",
            "propensity": 1.0,
            "features": {"weather": "missing"},
        }
    ],
}


@dataclass
class Server:
    """Answers every request with the same, and remembers what came."""

    status: int = 200
    body: bytes = b""
    ready: bytes = b""
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    state = Server(body=json.dumps(ANSWER).encode())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            state.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            state.headers.append(dict(self.headers.items()))
            state.connections.add(self.client_address)
            self.send_response(state.status)
            self.send_header("content-length", str(len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)

        def do_GET(self) -> None:
            self.send_response(200 if state.ready else 404)
            self.send_header("content-length", str(len(state.ready)))
            self.end_headers()
            self.wfile.write(state.ready)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        state.url = f"http://127.0.0.1:{http.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            http.socket = context.wrap_socket(http.socket, server_side=True)
            state.url = f"https://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def endpoint(server: Server) -> Iterator[Endpoint]:
    with Endpoint(name="late", url=server.url, version=3) as endpoint:
        yield endpoint


def test_an_answer_becomes_predictions(endpoint: Endpoint) -> None:
    assert endpoint.predict([{"x": 1}]) == [
        Prediction(
            id="r-0",
            outputs={"probability": 0.25},
            model="late",
            version=3,
            digest="d",
            arm="gold",
            propensity=1.0,
            features={"weather": "missing"},
        )
    ]


def test_requests_share_a_connection_and_wave_the_watch_for_leaving(endpoint: Endpoint, server: Server) -> None:
    for _ in range(3):
        endpoint.predict([{"x": 1}])
    assert len(server.connections) == 1
    assert server.headers[0]["x-request-disconnect-disabled"] == "?1"


def test_moments_and_numpy_values_are_sent_as_json(endpoint: Endpoint, server: Server) -> None:
    moment = datetime(2013, 9, 1, 10, tzinfo=UTC)
    endpoint.predict([{"x": np.float64(0.5), "n": np.int64(3), "t": moment, "s": None}], at=moment)
    iso = "2013-09-01T10:00:00+00:00"
    assert server.bodies == [{"rows": [{"x": 0.5, "n": 3, "t": iso, "s": None}], "at": iso}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_cannot_be_sent_is_said_before_it_is_sent(endpoint: Endpoint, server: Server, value: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be sent"):
        endpoint.predict([{"x": value}])
    assert server.bodies == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInput),
        (413, InvalidInput),
        (422, InvalidInput),
        (401, Refused),
        (404, NotFound),
        (408, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_an_error_of_the_server_becomes_one_of_ours(
    endpoint: Endpoint, server: Server, status: int, kind: type[MlplatError]
) -> None:
    server.status, server.body = status, b'{"error": {"message": "the field x"}}'
    with pytest.raises(kind, match="the field x"):
        endpoint.predict([{"x": 1}])


def test_an_answer_that_is_not_ours_is_shown(endpoint: Endpoint, server: Server) -> None:
    server.status, server.body = 503, b"Request dropped due to backpressure"
    with pytest.raises(Unavailable, match="backpressure"):
        endpoint.predict([{"x": 1}])


def test_nobody_there_is_unavailable() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Endpoint(name="late", url=url, version=1) as endpoint, pytest.raises(Unavailable, match="does not answer"):
        endpoint.predict([{"x": 1}])
    assert not alive(url)


def test_another_server_is_not_taken_for_ours(server: Server) -> None:
    assert epochs(server.url) is None
    server.ready = b'{"ready": true, "home": "h1", "epochs": {"late": 7}}'
    assert epochs(server.url) == epochs(server.url, "h1") == {"late": 7}
    assert epochs(server.url, "h2") is None  # it was there before


async def ask_async(url: str, rows: list[dict[str, Any]], **options: Any) -> list[Prediction]:
    async with AsyncEndpoint(name="late", url=url, **options) as endpoint:
        return await endpoint.predict(rows, at="2013-09-01T10:00:00Z", request_id="mine")


def test_the_async_client_sends_and_answers_what_the_other_does(server: Server) -> None:
    answered = asyncio.run(ask_async(server.url, [{"x": 1}], token="t.1"))
    with Endpoint(name="late", url=server.url, token="t.1") as endpoint:
        assert endpoint.predict([{"x": 1}], at="2013-09-01T10:00:00Z", request_id="mine") == answered
    assert server.bodies[0] == server.bodies[1]
    assert server.headers[0] == server.headers[1]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "kind"), [(401, Refused), (404, NotFound), (422, InvalidInput), (503, Unavailable)])
def test_the_async_client_has_the_same_errors(server: Server, status: int, kind: type[MlplatError]) -> None:
    server.status, server.body = status, b'{"error": {"message": "the field x"}}'
    with pytest.raises(kind, match="the field x"):
        asyncio.run(ask_async(server.url, [{"x": 1}]))
    with pytest.raises(InvalidInput, match="cannot be sent"):
        asyncio.run(ask_async(server.url, [{"x": object()}]))
    with pytest.raises(Unavailable, match="does not answer"):
        asyncio.run(ask_async(f"http://127.0.0.1:{free_port()}", [{"x": 1}]))


def test_a_token_is_sent_and_never_shown(server: Server) -> None:
    server.status, server.body = 401, b'{"error": {"message": "no valid token"}}'
    with Endpoint(name="late", url=server.url, token="id.hunter2") as endpoint:
        with pytest.raises(Refused) as caught:
            endpoint.predict([{"x": 1}])
        shown = repr(endpoint) + str(caught.value) + repr(vars(endpoint)) + repr(endpoint._client.headers)
    assert server.headers[0]["authorization"] == "Bearer id.hunter2"
    assert "hunter2" not in shown


@pytest.mark.parametrize("token", ["", "hunter2 ", "hunter2\n", "hünter2"])
def test_what_is_no_token_is_not_sent_and_not_repeated(token: str) -> None:
    with pytest.raises(InvalidInput, match="no token") as caught:
        Endpoint(name="late", url="http://127.0.0.1:1", token=token)
    assert "nter2" not in str(caught.value)


def test_a_url_alone_is_enough(server: Server) -> None:
    import mlplat

    with mlplat.Endpoint(name="late", url=server.url + "/") as endpoint:
        assert endpoint.predict([{"x": 1}])[0].version == 3
        assert repr(endpoint) == f"Endpoint('late', POST {server.url}/predict/late)"
    with pytest.raises(InvalidInput, match="begins with http"):
        mlplat.AsyncEndpoint(name="late", url="127.0.0.1:8000")


def test_https_is_believed_where_its_certificate_is(tmp_path: Path) -> None:
    with serving(certificate(tmp_path)) as server:
        ca = str(tmp_path / "ca.pem")
        with Endpoint(name="late", url=server.url, verify=ca) as endpoint:
            assert endpoint.predict([{"x": 1}])[0].version == 3
        assert asyncio.run(ask_async(server.url, [{"x": 1}], verify=ca))[0].version == 3
        with Endpoint(name="late", url=server.url) as other, pytest.raises(Unavailable, match="CERTIFICATE_VERIFY"):
            other.predict([{"x": 1}])
    with pytest.raises(InvalidInput, match="no certificates can be read"):
        Endpoint(name="late", url="https://127.0.0.1:1", verify=str(tmp_path / "absent.pem"))


def test_a_404_of_a_proxy_says_that_nobody_is_behind_it_now(server: Server) -> None:
    server.status, server.body = 404, b"Path '/predict/late' not found."
    with Endpoint(name="late", url=server.url) as endpoint, pytest.raises(Unavailable, match="nobody answers behind"):
        endpoint.predict([{"x": 1}])
