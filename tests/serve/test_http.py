from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
