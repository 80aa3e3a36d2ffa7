from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput, Unavailable
from mlplat.serve.listen import Listen, speaks_tls
from tests.certificates import certificate
from tests.notify_servers import hook


def spoken(url: str) -> bool:
    return speaks_tls("0.0.0.0", int(url.split(":")[2].split("/")[0]), patience_s=0.2, clock=SystemClock())


def test_the_url_is_one_that_this_machine_reaches() -> None:
    assert Listen().url(8000) == "http://127.0.0.1:8000"
    assert Listen(host="0.0.0.0", tls="x.pem").url(8000) == "https://127.0.0.1:8000"
    assert Listen(host="10.1.2.3").url(8000) == "http://10.1.2.3:8000"


def test_whoever_holds_the_certificate_is_trusted_whatever_its_name_and_nobody_else_of_its_authority(
    tmp_path: Path,
) -> None:
    own = certificate(tmp_path, name="models.example.com")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(own.read_bytes() + (tmp_path / "ca.pem").read_bytes())
    (tmp_path / "other").mkdir()
    for at, answers in ((chain, True), (certificate(tmp_path / "other", name="models.example.com"), False)):
        trust = Listen(tls=str(chain)).trust()
        assert trust is not None
        with hook(certificate=at) as server, httpx.Client(verify=trust, trust_env=False) as client:
            assert spoken(server.url)
            if answers:
                assert client.post(server.url, json={}).status_code == 200
            else:
                with pytest.raises(httpx.ConnectError, match="verify failed"):
                    client.post(server.url, json={})
    assert Listen().trust() is None


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    for content in (None, "no certificate"):
        if content is not None:
            (tmp_path / "x.pem").write_text(content)
        with pytest.raises(InvalidInput, match=r"x\.pem': it cannot be read any more"):
            Listen(tls=str(tmp_path / "x.pem")).trust()


@pytest.mark.slow
def test_plain_http_is_no_tls_and_silence_is_told() -> None:
    with hook() as server:
        assert not spoken(server.url)
        url = server.url
    with pytest.raises(Unavailable, match="nobody listens at"):
        spoken(url)
