from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from mlplat.errors import InvalidInput
from mlplat.serve.http import MAX_BODY_BYTES, BodyLimits, HttpError, read_body
from tests.serve.models import ROW
from tests.serve.rig import JSON, Rig, opened, served


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Rig]:
    with opened(tmp_path, body=BodyLimits(body_s=0.01)) as rig:
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
    limits = BodyLimits(body_bytes=1_024)
    assert asyncio.run(read_body({"headers": []}, Pieces(b"a" * 1_000, b"b" * 24), limits)) == b"a" * 1_000 + b"b" * 24
    with pytest.raises(HttpError, match="larger than 1024 bytes"):
        asyncio.run(read_body({"headers": []}, Pieces(b"a" * 1_000, b"b" * 25), limits))


def test_a_name_has_its_own_limits_and_another_serve_changes_them_at_once(tmp_path: Path) -> None:
    large = orjson.dumps({"rows": [ROW]}) + b" " * 2_000
    with opened(tmp_path) as rig:

        def status(name: str, body: bytes = large) -> int:
            return rig.send("POST", f"/predict/{name}", content=body, headers=JSON).status_code

        rig.app.serve({"late": served(), "small": replace(served(), body=BodyLimits(body_bytes=1_024))})
        assert (status("late"), status("small"), status("small", large.rstrip())) == (200, 413, 200)
        response = rig.send("POST", "/v2/models/small/infer", content=large, headers=JSON)
        assert (response.status_code, response.json()["error"]) == (
            413,
            "the body is larger than 1024 bytes: send fewer rows at a time",
        )
        larger = b" " * MAX_BODY_BYTES + large
        assert status("late", larger) == 413
        rig.app.serve({"late": replace(served(), body=BodyLimits(body_bytes=2 * MAX_BODY_BYTES))})
        assert status("late", larger) == 200


@pytest.mark.parametrize("wrong", [1_023, (64 << 20) + 1, 2_000.0, True, "1MB", None, -1])
def test_a_size_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(
        InvalidInput, match=r"body_bytes=.* from 1024 to 67108864 \(64 MiB\); for more rows than fit, send several"
    ):
        BodyLimits(body_bytes=wrong)


@pytest.mark.parametrize("wrong", [0, -1.0, 600.1, math.inf, math.nan, True, "30s", None])
def test_a_time_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match=r"body_s=.*: seconds, more than 0 and at most 600"):
        BodyLimits(body_s=wrong)


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
