"""The endpoint as a plain ASGI app: routes in, JSON out. It runs the same under Ray Serve and in a test."""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
from collections.abc import Callable, Mapping

import orjson

from mlplat.errors import InvalidInput, Unavailable, UserCodeError
from mlplat.serve.answer import Answerer
from mlplat.serve.http import (
    Disconnected,
    HttpError,
    Receive,
    Scope,
    Send,
    check_content_type,
    read_body,
    send_json,
    send_text,
)
from mlplat.serve.openapi import document
from mlplat.serve.served import Served

_PREDICT = "/predict/"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger(__name__)


class App:
    """`POST /predict/NAME`, and for people and machines `GET /`, `/healthz`, `/readyz`, `/openapi.json`.

    `served` is replaced as a whole by `serve`: a request that runs keeps what it began with. `on_stop` runs at
    shutdown.
    """

    def __init__(
        self, answerer: Answerer, served: Mapping[str, Served], *, on_stop: Callable[[], None] = lambda: None
    ) -> None:
        self._answerer = answerer
        self._on_stop = on_stop
        self._pages = {
            "/": self._help,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/openapi.json": self._openapi,
        }
        self.served = served

    def serve(self, served: Mapping[str, Served]) -> None:
        """From the next request on."""
        self.served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._route(scope, receive, send)
        except HttpError as error:
            await send_json(send, error.status, error.body(), error.headers)
        except Disconnected:
            return
        except Unavailable as error:
            await send_json(send, 503, HttpError(503, "unavailable", str(error)).body(), [(b"retry-after", b"1")])
        except InvalidInput as error:
            await send_json(send, 422, HttpError(422, "invalid_input", str(error)).body())
        except UserCodeError as error:
            _log.warning("request %s %s: the model failed: %s", scope["method"], scope["path"], error)
            await send_json(send, 500, HttpError(500, "model_failed", str(error)).body())
        except Exception:  # noqa: BLE001 - a bug of ours: said to the caller, and to the log with all we know
            _log.exception("request %s %s failed", scope["method"], scope["path"])
            await send_json(
                send, 500, HttpError(500, "internal", "mlplat has a bug here; its log has the details").body()
            )

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path.startswith(_PREDICT):
            served = self._find(path[len(_PREDICT) :])
            _allow(scope, "POST")
            check_content_type(scope)
            body = await read_body(scope, receive)
            request_id = self._request_id(scope)
            answer = await self._answerer.answer(served, body, request_id)
            await send_json(send, 200, answer, [(b"x-request-id", request_id.encode())])
            return
        page = self._pages.get(path)
        if page is None:
            raise HttpError(
                404, "unknown_path", "there is no such page: POST /predict/NAME, or GET " + ", ".join(self._pages)
            )
        _allow(scope, "GET")
        if path == "/":
            await send_text(send, 200, self._help())
        else:
            await send_json(send, 200, orjson.dumps(page()))

    def _find(self, name: str) -> Served:
        found = self.served.get(name)
        if found is None:
            near = difflib.get_close_matches(name[:100], self.served, n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?" if near else f"served: {', '.join(sorted(self.served))}"
            )
            raise HttpError(404, "unknown_model", f"no model {name[:100]!r} is served here; {hint}")
        return found

    def _request_id(self, scope: Scope) -> str:
        """The caller's id if it is a decent one."""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        return self._answerer.new_id()

    def _help(self) -> str:
        lines = ["mlplat serves " + (", ".join(sorted(self.served)) or "no model"), ""]
        lines += [f"POST {_PREDICT}{name}    " + '{"rows": [{"field": value, ...}]}' for name in sorted(self.served)]
        return "\n".join([*lines, "GET  /openapi.json    the fields of each", "GET  /healthz /readyz", ""])

    def _health(self) -> dict[str, object]:
        return {"alive": True, "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0]}

    def _ready(self) -> dict[str, object]:
        """Every version that is served was warmed before: an app that answers is ready."""
        return {
            "ready": True,
            "models": {name: served.gold.number for name, served in self.served.items()},
            "epochs": {name: served.table.epoch for name, served in self.served.items()},
        }

    def _openapi(self) -> dict[str, object]:
        return document({name: served.gold.signature for name, served in self.served.items()})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self._on_stop()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return


def _allow(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise HttpError(405, "method_not_allowed", f"use {method} here", headers=[(b"allow", method.encode())])
