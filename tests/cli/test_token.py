from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mlplat
from mlplat.cli.main import app
from mlplat.errors import NotFound
from mlplat.home import open_home
from mlplat.serve import state
from mlplat.serve.state import Entry


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a name that is served."""
    path = open_home(tmp_path / "home")
    entry = Entry(name="late", version=1, digest="d", path="p", url="http://127.0.0.1:1", cluster="c")
    state.put(path, entry)
    return path


def said(home: Path, *words: str) -> str:
    ended = CliRunner().invoke(app, ["token", *words, "--home", str(home)], catch_exceptions=False)
    assert ended.exit_code == 0
    return ended.stdout


@pytest.mark.slow
def test_a_token_is_made_listed_and_revoked(home: Path) -> None:
    token = said(home, "create", "late").strip()
    other = json.loads(said(home, "create", "late", "--expires", "90d", "--json"))
    assert token.partition(".")[0] in said(home, "list", "late")
    assert "never expires" in said(home, "list", "late")
    listed = json.loads(said(home, "list", "late", "--json"))
    assert [one["id"] for one in listed] == [token.partition(".")[0], other["id"]]
    assert listed[1]["expires_us"] - listed[1]["created_us"] == 90 * 24 * 3600 * 10**6
    assert other["token"] not in said(home, "list", "late")
    assert said(home, "revoke", "late", other["id"]) == f"{other['id']} of late is revoked\n"
    assert json.loads(said(home, "revoke", "late", token, "--json")) == {"name": "late", "id": listed[0]["id"]}
    assert said(home, "list", "late").strip() == "tokens  (none: mlplat token create NAME makes one)"


def test_a_name_that_nobody_serves_gets_no_token(home: Path) -> None:
    with mlplat.connect(home) as platform:
        with pytest.raises(NotFound, match="no model 'lat'"):
            platform.create_token("lat")
        platform.create_token("late")
        assert len(platform.tokens("late")) == 1
        assert platform.tokens("lat") == []
