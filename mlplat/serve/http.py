"""The little HTTP that the rig needs, on plain ASGI: bodies with a limit, JSON answers, and errors as values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, MutableMapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from mlplat.errors import InvalidInput

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 1 << 20
BODY_S = 30.0
_LEAST_BYTES, _MOST_BYTES = 1 << 10, 64 << 20
_MOST_S = 600.0
_JSON = (b"content-type", b"application/json")
_TEXT = b"text/plain; charset=utf-8"
_CLOSE = (b"connection", b"close")


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """How long the body of a request may be, and how long it may take to come. `InvalidInput` for limits that would keep every
    caller out, or none: hundreds of bodies may be under way at once, and each is read on the loop that answers all.
    """

    body_bytes: int = MAX_BODY_BYTES
    body_s: float = BODY_S

    def __post_init__(self) -> None:
        if type(self.body_bytes) is not int or not _LEAST_BYTES <= self.body_bytes <= _MOST_BYTES:
            raise InvalidInput(
                f"body_bytes={self.body_bytes!r}: a whole number of bytes from {_LEAST_BYTES} to {_MOST_BYTES} (64 MiB); "
                "for more rows than fit, send several requests, or use platform.predict"
            )
        if type(self.body_s) not in (int, float) or not 0 < self.body_s <= _MOST_S:
            raise InvalidInput(f"body_s={self.body_s!r}: seconds, more than 0 and at most {_MOST_S:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """What is wrong with one field, in one row if it belongs to one (0-based)."""

    field: str
    message: str
    row: int | None = None


class HttpError(Exception):
    """Answered as `{"error": {"code", "message", "fields": [{"field", "message", "row"}]}}` with this status."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: Iterable[FieldError] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = tuple(fields)
        self.headers = tuple(headers)

    def body(self) -> bytes:
        error = {"code": self.code, "message": self.message, "fields": [asdict(field) for field in self.fields]}
        return json.dumps(
            {"error": error}
        ).encode()  # orjson refuses the half characters that a bad field name may hold


class Disconnected(Exception):
    """The caller went away while sending."""


LIMITS = BodyLimits()


async def read_body(scope: Scope, receive: Receive, limits: BodyLimits = LIMITS) -> bytes:
    """The whole body. `HttpError` 413 as soon as it is, or says it will be, longer than the limit, 408 for one that
    takes longer."""
    limit = limits.body_bytes
    for name, value in scope["headers"]:
        if name == b"content-length":
            _check_length(value, limit)
    reading = _all(receive, limit)
    try:
        waits_for = reading.send(None)
    except StopIteration as done:  # it is all there, as most are: a timer would cost more than the reading
        whole: bytes = done.value
        return whole
    try:
        async with asyncio.timeout(limits.body_s):
            return await _Begun(reading, waits_for)
    except TimeoutError:
        message = f"the body did not come within {limits.body_s:g} seconds: send fewer rows at a time"
        raise HttpError(408, "too_slow", message, headers=[_CLOSE]) from None


class _Begun:
    """A coroutine that was begun by hand, from where it waits for the first time."""

    def __init__(self, coroutine: Coroutine[Any, Any, bytes], waits_for: Any) -> None:
        self._coroutine, self._waits_for = coroutine, waits_for

    def __await__(self) -> Generator[Any, Any, bytes]:
        waits_for = self._waits_for
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's, and what it does not catch comes out of it
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, sent)
            try:
                waits_for = step()
            except StopIteration as done:
                whole: bytes = done.value
                return whole


async def _all(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def send_json(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> Awaitable[None]:
    return _send(send, status, body, [_JSON, *headers])


def send_text(send: Send, status: int, text: bytes, content_type: bytes = _TEXT) -> Awaitable[None]:
    return _send(send, status, text, [(b"content-type", content_type)])


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def check_content_type(scope: Scope) -> None:
    """A body is JSON, or of no stated type, and not compressed."""
    for name, value in scope["headers"]:
        if name == b"content-type" and value.split(b";")[0].strip().lower() not in (b"application/json", b""):
            shown = value[:100].decode("latin-1")
            raise HttpError(415, "unsupported_media_type", f"content-type is {shown!r}: send application/json")
        if name == b"content-encoding" and value.lower() not in (b"identity", b""):
            raise HttpError(415, "unsupported_encoding", "content-encoding: send the body as it is, not compressed")


def _check_length(header: bytes, limit: int) -> None:
    if header.isdigit() and int(header[:20]) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> HttpError:
    # The rest of the body is not read, so the connection cannot be used again.
    message = f"the body is larger than {limit} bytes: send fewer rows at a time"
    return HttpError(413, "body_too_large", message, headers=[_CLOSE])
