from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplat.errors import Corrupt, InvalidInput, NotFound
from mlplat.serve import tokens
from mlplat.serve.tokens import Gate, loopback
from mlplat.testing.clock import ManualClock
from tests.serve.models import ROW
from tests.serve.rig import Rig, opened

PATHS = ("/predict/late", "/v2/models/late/infer")
DAY = timedelta(days=1)


@dataclass
class Guarded:
    """An app with a gate, and the clock of it."""

    rig: Rig
    clock: ManualClock

    def create(self, name: str = "late", expires: str | None = None) -> str:
        made = tokens.create(self.rig.home, name, now_us=self.clock.now_us(), expires=expires)
        self.clock.advance(timedelta(seconds=1))
        return made

    def revoke(self, token: str) -> None:
        tokens.revoke(self.rig.home, "late", token)
        self.clock.advance(timedelta(seconds=1))

    def ask(self, token: str | None = None, path: str = PATHS[0], **headers: str) -> httpx.Response:
        given = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.rig.send("POST", path, json={"rows": [ROW]}, headers={**given, **headers})


def guarded(home: Path, host: str = "127.0.0.1") -> Iterator[Guarded]:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    with opened(home, gate=Gate(home, clock, host=host)) as rig:
        yield Guarded(rig, clock)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Guarded]:
    yield from guarded(tmp_path)


@pytest.fixture
def exposed(tmp_path: Path) -> Iterator[Guarded]:
    yield from guarded(tmp_path, host="0.0.0.0")


def test_on_the_loopback_interface_a_name_without_tokens_asks_for_none(app: Guarded) -> None:
    assert app.ask().status_code == 200
    app.create("other")
    assert app.ask().status_code == 200


def test_elsewhere_a_name_without_tokens_lets_nobody_in(exposed: Guarded) -> None:
    assert exposed.ask().status_code == 401
    assert exposed.ask("x.y").status_code == 401
    assert exposed.ask(exposed.create()).status_code == 200


def test_the_first_token_closes_the_door_within_a_second(app: Guarded) -> None:
    assert app.ask().status_code == 200
    token = app.create()
    for path in PATHS:
        assert app.ask(path=path).status_code == 401
    assert app.ask(token).status_code == 200
    assert app.ask(token, PATHS[1]).status_code == 400  # in, and no request of that protocol


def test_several_tokens_are_valid_at_once_and_revoked_one_by_one(app: Guarded) -> None:
    first, second = app.create(), app.create()
    assert [app.ask(token).status_code for token in (first, second)] == [200, 200]
    app.revoke(first.partition(".")[0])
    assert [app.ask(token).status_code for token in (first, second)] == [401, 200]


def test_revoking_the_last_token_does_not_open_the_door(app: Guarded) -> None:
    token = app.create()
    app.revoke(token)
    assert [app.ask().status_code, app.ask(token).status_code] == [401, 401]


def test_an_expired_token_opens_nothing_from_its_last_moment_on(app: Guarded) -> None:
    token = app.create(expires="1d")
    app.clock.advance(DAY - timedelta(seconds=1, microseconds=1))
    assert app.ask(token).status_code == 200
    app.clock.advance(timedelta(microseconds=1))
    assert app.ask(token).status_code == 401


def test_a_token_is_for_one_name(app: Guarded) -> None:
    app.create()
    assert app.ask(app.create("other")).status_code == 401


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer {}x", "Bearer " + "x" * 5_000, "Bearer {} {}"],
)
def test_what_is_no_token_is_answered_with_how_to_send_one(app: Guarded, header: str) -> None:
    token = app.create()
    response = app.ask(authorization=header.format(token, token))
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "unauthorized"
    assert response.headers["www-authenticate"].startswith('Bearer realm="mlplat"')
    assert token not in response.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_scheme_may_be_written_in_any_case(app: Guarded, scheme: str) -> None:
    assert app.ask(authorization=f"{scheme} {app.create()}").status_code == 200


def test_two_headers_are_refused_even_if_one_is_right(app: Guarded) -> None:
    token = app.create()
    headers = [("authorization", f"Bearer {token}"), ("authorization", "Bearer x")]
    assert app.rig.send("POST", PATHS[0], json={"rows": [ROW]}, headers=headers).status_code == 401


def test_who_is_refused_is_not_read_and_not_logged(app: Guarded) -> None:
    app.create()
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app.rig.app({"type": "http", "method": "POST", "path": PATHS[0], "headers": []}, receive, send))
    assert sent[0]["status"] == 401
    assert app.rig.logged() == []


def test_the_protocols_error_has_the_protocols_form(app: Guarded) -> None:
    app.create()
    assert list(app.ask(path=PATHS[1]).json()) == ["error"]


def test_pages_ask_for_no_token(app: Guarded) -> None:
    app.create()
    for path in ("/healthz", "/readyz", "/openapi.json", "/metrics", "/v2", "/v2/models/late", "/v2/health/ready"):
        assert app.rig.send("GET", path).status_code == 200


def test_the_file_is_looked_at_once_a_second(app: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    stamp = tokens._stamp
    monkeypatch.setattr(tokens, "_stamp", lambda path: looked.append(path) or stamp(path))
    for _ in range(5):
        app.ask()
    assert len(looked) == 1
    app.clock.advance(timedelta(seconds=1))
    app.ask()
    assert len(looked) == 2


def test_tokens_that_cannot_be_read_let_nobody_in(app: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    token = app.create()
    (app.rig.home / "tokens.json").write_text('{"late": [{"sha256": "secret-looking')
    app.clock.advance(timedelta(seconds=1))
    response = app.ask(token)
    assert response.status_code == 503
    assert "tokens" in response.json()["error"]["message"]
    assert "secret-looking" not in response.text + caplog.text
    (app.rig.home / "tokens.json").unlink()
    assert app.ask(app.create()).status_code == 200


def test_no_token_is_written_shown_or_said(app: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = app.create()
    secret = token.partition(".")[2]
    assert app.ask(token).status_code == 200
    shown = [repr(one) for one in tokens.read(app.rig.home)["late"]]
    said = [app.ask(token + "x").text, *shown, caplog.text]
    app.rig.logged()
    files = [path for path in app.rig.home.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"tokens.json"}
    assert not any(secret.encode() in path.read_bytes() for path in files)
    assert not any(secret in text for text in said)
    assert (app.rig.home / "tokens.json").stat().st_mode & 0o077 == 0


def test_a_token_has_an_id_and_times(tmp_path: Path) -> None:
    made = [tokens.create(tmp_path, "late", now_us=5, expires=expires) for expires in (None, "1s")]
    found = tokens.read(tmp_path)["late"]
    assert [one.id for one in found] == [token.partition(".")[0] for token in made]
    assert [(one.created_us, one.expires_us) for one in found] == [(5, None), (5, 1_000_005)]
    assert [one.expired(1_000_005) for one in found] == [False, True]


def test_what_is_not_there_cannot_be_revoked_and_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="'late' has no such token; it has none"):
        tokens.revoke(tmp_path, "late", "hunter2")
    made = tokens.create(tmp_path, "late", now_us=0)
    with pytest.raises(NotFound, match=f"its ids: {made.partition('.')[0]}") as caught:
        tokens.revoke(tmp_path, "late", "hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_duration_that_is_none_makes_no_token(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="duration 'soon'"):
        tokens.create(tmp_path, "late", now_us=0, expires="soon")
    assert tokens.read(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"late": [1]}', json.dumps({"late": [{"id": "x"}]})])
def test_a_damaged_file_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(Corrupt, match=r"tokens\.json is not what was written"):
        tokens.read(tmp_path)


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches_is_loopback(host: str, found: bool) -> None:
    assert loopback(host) is found
