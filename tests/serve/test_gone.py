"""Whether an endpoint is gone is said for certain: slowness is no absence."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlplat._ray.connect import free_port
from mlplat.serve import endpoint


@pytest.mark.parametrize(("status", "absent"), [(200, False), (404, True), (503, True)])
def test_an_answer_says_it(status: int, absent: bool) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert endpoint.gone(f"http://127.0.0.1:{server.server_port}") is absent
        server.shutdown()
        thread.join()


def test_where_nobody_listens_nobody_is_and_who_is_slow_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_ALIVE_TIMEOUT_S", 0.05)
    assert endpoint.gone(f"http://127.0.0.1:{free_port()}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not endpoint.gone(f"http://127.0.0.1:{silent.getsockname()[1]}")
