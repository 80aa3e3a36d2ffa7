"""Endpoints of clusters of their own: while processes are killed, when all of them were, and with TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlplat.config import environment
from tests.certificates import certificate
from tests.ray.drivers import ROOT, told

pytestmark = [pytest.mark.ray, pytest.mark.alone]


def test_an_endpoint_comes_through_the_death_of_each_process_and_of_all(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-m", "tests.ray.killing_driver", str(tmp_path)],
        cwd=ROOT,
        env={**environment().variables, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert killed.returncode == -9, killed.stderr
    found = json.loads(killed.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["failed"]["ServeController"] == 0  # it is not on the way of a request
    assert found["arms"] == ["gold", "v2"]
    (again,) = told("killing_driver", tmp_path, "again")
    assert again == {"gold": 1, "arms": ["gold", "v2"], "version": again["version"], "alive": True}
    assert again["version"] in (1, 2)


def test_an_endpoint_that_listens_everywhere_speaks_tls_and_asks_for_a_token(tmp_path: Path) -> None:
    certificate(tmp_path, name="models.example.com")
    (found,) = told("tls_driver", tmp_path)
    assert found["url"].startswith("https://127.0.0.1:")
    assert found["known"] == [200, 200]
    assert found["http2"] == "2 200"
    assert found["strange"] == "ConnectError"
    assert found["no token"] == 401
    assert found["plain"] in (400, "RemoteProtocolError", "ReadError")
    assert found["here"] == 1
    without, elsewhere = found["refused"]
    assert "the endpoints of this cluster speak TLS" in without
    assert "listens on 0.0.0.0 already" in elsewhere
