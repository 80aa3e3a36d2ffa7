from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplat.serve.http import HttpError, read_body
from tests.serve.models import ROW
from tests.serve.rig import Rig, opened


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Rig]:
    with opened(tmp_path, body_s=0.01) as rig:
        yield rig


@pytest.mark.parametrize("path", ["/predict/late", "/v2/models/late/infer"])
def test_a_body_that_does_not_come_in_time_is_answered_408(hurried: Rig, path: str) -> None:
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": b'{"rows"', "more_body": True}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(hurried.app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert b"0.01 seconds" in sent[1]["body"]
    assert hurried.predict(ROW).status_code == 200


def test_a_compressed_body_is_refused(hurried: Rig) -> None:
    response = hurried.send("POST", "/predict/late", content=b"x", headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    assert "not compressed" in response.json()["error"]["message"]


class Pieces:
    """A body in pieces, each of which is waited for."""

    def __init__(self, *pieces: bytes) -> None:
        self._messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        self._messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def __call__(self) -> Any:
        await asyncio.sleep(0)
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)


def test_a_body_comes_in_pieces_and_is_read_whole() -> None:
    assert asyncio.run(read_body({"headers": []}, Pieces(b"ab", b"", b"cd"))) == b"abcd"


def test_a_body_that_grows_too_large_on_its_way_is_refused() -> None:
    with pytest.raises(HttpError, match="larger than 3 bytes"):
        asyncio.run(read_body({"headers": []}, Pieces(b"ab", b"cd"), limit=3))


def test_who_waits_for_a_body_can_be_cancelled() -> None:
    async def go() -> None:
        pieces = Pieces()
        await pieces()
        reading = asyncio.ensure_future(read_body({"headers": []}, pieces))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(go())
