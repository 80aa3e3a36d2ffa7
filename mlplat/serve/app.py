"""The endpoint as a plain ASGI app: routes in, JSON out. It runs the same under Ray Serve and in a test."""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from mlplat.errors import InvalidInput, Unavailable, UserCodeError
from mlplat.serve import v2
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
from mlplat.serve.metrics import CONTENT_TYPE, Metrics
from mlplat.serve.openapi import document
from mlplat.serve.policy import RefusedFeatures
from mlplat.serve.routing import GOLD, Arm
from mlplat.serve.served import Served
from mlplat.serve.tokens import Gate

_PREDICT = "/predict/"
_METRICS = "/metrics"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger(__name__)

_Route = Callable[[Served, Scope, Receive, Send], Awaitable[None]]


class App:
    """`POST /predict/NAME`, the Open Inference Protocol below `/v2`, and for people and machines `GET /`, `/healthz`,
    `/readyz`, `/openapi.json`, `/metrics`.

    `served` is replaced as a whole by `serve`: a request that runs keeps what it began with. `gate` asks those who want
    predictions for tokens. `on_start` and `on_stop` run on the loop. `home` is the home's id: another's app may
    have been at this address before.
    """

    def __init__(
        self,
        answerer: Answerer,
        served: Mapping[str, Served],
        *,
        gate: Gate | None = None,
        metrics: Metrics | None = None,
        on_start: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
        home: str = "",
    ) -> None:
        self._answerer = answerer
        self._gate = gate
        self._metrics = metrics
        self._on_start, self._on_stop, self._home = on_start, on_stop, home
        self._pages: dict[str, Callable[[], str | dict[str, Any]]] = {
            "/": self._help,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/openapi.json": self._openapi,
            "/v2": v2.server,
            "/v2/health/live": lambda: {"live": True},
            "/v2/health/ready": lambda: {"ready": True},
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
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            failure = _failure(error, scope)
            body = v2.error(failure) if v2.speaks(scope["path"]) else failure.body()
            await send_json(send, failure.status, body, failure.headers)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path.startswith(_PREDICT):
            await self._counted(self._predict, self._find(path[len(_PREDICT) :]), scope, receive, send)
        elif path.startswith(v2.MODELS):
            await self._model(path, scope, receive, send)
        elif path == _METRICS and self._metrics is not None:
            _allow(scope, "GET")
            await send_text(send, 200, self._metrics.text(), CONTENT_TYPE)
        elif (page := self._pages.get(path)) is not None:
            _allow(scope, "GET")
            answer = page()
            if isinstance(answer, str):
                await send_text(send, 200, answer.encode())
            else:
                await send_json(send, 200, orjson.dumps(answer))
        else:
            raise self._no_page()

    async def _counted(self, answer: _Route, served: Served, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that is answered is counted by its record."""
        if self._metrics is None:
            await answer(served, scope, receive, send)
            return
        self._metrics.began(served.name)
        try:
            await answer(served, scope, receive, send)
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001 - counted, and told to the caller one floor up
            failure = _failure(error, scope)
            self._metrics.refused(served.name, failure.status)
            if isinstance(failure, RefusedFeatures):
                self._metrics.refused_features(served.name, failure.counts)
            raise failure from None
        finally:
            self._metrics.ended(served.name)

    async def _predict(self, served: Served, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(served, scope, receive)
        request_id = self._request_id(scope)
        answer = await self._answerer.answer(served, body, request_id)
        await _answered(send, answer, request_id)

    async def _model(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """What the Open Inference Protocol says of one model, and its inference."""
        target = v2.target(path)
        if target is None:
            raise self._no_page()
        served = _pinned(self._find(target.name), target.version)
        if target.verb == "infer":
            await self._counted(self._infer, served, scope, receive, send)
            return
        _allow(scope, "GET")
        gold = served.gold
        if target.verb == "ready":
            said: dict[str, Any] = {"name": served.name, "ready": True}
        else:
            said = v2.metadata(served.name, gold.number, gold.signature)
        await send_json(send, 200, orjson.dumps(said))

    async def _infer(self, served: Served, scope: Scope, receive: Receive, send: Send) -> None:
        v2.refuse_binary(scope["headers"])
        body = await self._body(served, scope, receive)
        signature = served.gold.signature
        inference = v2.read(body, served.parser)
        v2.check_outputs(inference, signature)
        request_id = self._request_id(scope, inference.id)
        answer = await self._answerer.answer(served, inference.asked, request_id)
        await _answered(send, v2.write(inference, answer, signature), request_id)

    async def _body(self, served: Served, scope: Scope, receive: Receive) -> bytes:
        """The body of a request that may be answered."""
        _allow(scope, "POST")
        if self._gate is not None:
            self._gate.check(served.name, scope["headers"])
        check_content_type(scope)
        return await read_body(scope, receive, served.body)

    def _find(self, name: str) -> Served:
        found = self.served.get(name)
        if found is None:
            near = difflib.get_close_matches(name[:100], self.served, n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?" if near else f"served: {', '.join(sorted(self.served))}"
            )
            raise HttpError(404, "unknown_model", f"no model {name[:100]!r} is served here; {hint}")
        return found

    def _no_page(self) -> HttpError:
        pages = ", ".join(self._pages)
        return HttpError(
            404, "unknown_path", f"there is no such page: POST {_PREDICT}NAME or {v2.MODELS}NAME/infer, or GET {pages}"
        )

    def _request_id(self, scope: Scope, named: str | None = None) -> str:
        """The caller's id if it is a decent one; the one in the body comes first."""
        if named is not None and _REQUEST_ID.fullmatch(named):
            return named
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(sent := str(value, "latin-1")):
                return sent
        return self._answerer.new_id()

    def _help(self) -> str:
        lines = ["mlplat serves " + (", ".join(sorted(self.served)) or "no model"), ""]
        lines += [f"POST {_PREDICT}{name}    " + '{"rows": [{"field": value, ...}]}' for name in sorted(self.served)]
        lines += [f"POST {v2.MODELS}{name}/infer    the Open Inference Protocol" for name in sorted(self.served)]
        return "\n".join([*lines, "GET  /openapi.json    the fields of each", "GET  /healthz /readyz /metrics", ""])

    def _health(self) -> dict[str, object]:
        return {"alive": True, "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0]}

    def _ready(self) -> dict[str, object]:
        """Every version that is served was warmed before: an app that answers is ready."""
        return {
            "ready": True,
            "home": self._home,
            "models": {name: served.gold.number for name, served in self.served.items()},
            "epochs": {name: served.table.epoch for name, served in self.served.items()},
        }

    def _openapi(self) -> dict[str, object]:
        return document(
            {name: served.gold.signature for name, served in self.served.items()},
            {name: served.rules for name, served in self.served.items()},
        )

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._on_start()
            else:
                self._on_stop()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return


def _allow(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise HttpError(405, "method_not_allowed", f"use {method} here", headers=[(b"allow", method.encode())])


def _pinned(served: Served, version: str | None) -> Served:
    """A caller may insist on gold, and is no part of the experiments then. Who is in one, the table alone decides."""
    if version is None:
        return served
    gold = served.gold.number
    if version != str(gold):
        raise HttpError(
            404,
            "unknown_version",
            f"version {version[:20]!r} of {served.name!r} is not what callers may ask for here; version {gold} is",
        )
    return replace(served, table=replace(served.table, arms=(Arm(name=GOLD, version=gold, share=1.0),)))


def _failure(error: Exception, scope: Scope) -> HttpError:
    if isinstance(error, HttpError):
        return error
    if isinstance(error, Unavailable):
        return HttpError(503, "unavailable", str(error), headers=[(b"retry-after", b"1")])
    if isinstance(error, InvalidInput):
        return HttpError(422, "invalid_input", str(error))
    if isinstance(error, UserCodeError):
        _log.warning("request %s %s: the model failed: %s", scope["method"], scope["path"], error)
        return HttpError(500, "model_failed", str(error))
    # A bug of ours: said to the caller, and to the log with all we know.
    _log.error("request %s %s failed", scope["method"], scope["path"], exc_info=error)
    return HttpError(500, "internal", "mlplat has a bug here; its log has the details")


def _answered(send: Send, answer: bytes, request_id: str) -> Awaitable[None]:
    return send_json(send, 200, answer, [(b"x-request-id", request_id.encode())])
