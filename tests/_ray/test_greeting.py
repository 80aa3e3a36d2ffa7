"""Who is told at once that Ray would not talk to it, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from mlplat._ray import flags
from mlplat._ray.connect import free_port
from mlplat._ray.greeting import greet
from mlplat.cluster.certificates import NODES, write
from mlplat.errors import InvalidInput, Unavailable

NOW = datetime.now(UTC)


def made(folder: Path, now: datetime = NOW) -> Path:
    write(folder, "lab", [], days=30, renew=False, now=now)
    return folder / NODES


@contextmanager
def node(folder: Path | None) -> Iterator[int]:
    """A port that speaks as Ray's do: with the certificate in a folder, or without."""
    server, port = grpc.server(ThreadPoolExecutor(1)), free_port()
    if folder is None:
        server.add_insecure_port(f"0.0.0.0:{port}")
    else:
        ca, certificate, key = ((folder / name).read_bytes() for name in flags.TLS_FILES.values())
        credentials = grpc.ssl_server_credentials([(key, certificate)], root_certificates=ca, require_client_auth=True)
        server.add_secure_port(f"0.0.0.0:{port}", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_who_has_the_certificates_of_a_node_or_needs_none_may_go_on(tmp_path: Path) -> None:
    folder = made(tmp_path / "a")
    with node(folder) as port:
        greet("127.0.0.1", port, flags.tls(folder))
        greet("localhost", port, flags.tls(folder))
    with node(None) as port:
        greet("127.0.0.1", port, {})
        greet("127.0.0.1", port, flags.tls(folder) | {flags.USE_TLS: "0"})


def test_one_with_tls_and_one_without_are_told_so(tmp_path: Path) -> None:
    folder = made(tmp_path / "a")
    with (
        node(folder) as port,
        pytest.raises(Unavailable, match=f"{port} uses TLS, and this .* set RAY_USE_TLS=1, and RAY_TLS_CA"),
    ):
        greet("127.0.0.1", port, {})
    with node(None) as port, pytest.raises(Unavailable, match=f"{port} does not use TLS, and this process does"):
        greet("127.0.0.1", port, flags.tls(folder))


def test_a_certificate_of_another_authority_for_another_address_or_that_has_ended_is_told(tmp_path: Path) -> None:
    ours, others = made(tmp_path / "a"), made(tmp_path / "b")
    old = made(tmp_path / "c", now=NOW - timedelta(days=31))
    cases = [
        (ours, "127.0.0.1", others, "signature"),
        (ours, "127.0.0.2", ours, "IP address mismatch"),
        (old, "127.0.0.1", old, "expired"),
    ]
    for shown, host, known, said in cases:
        with node(shown) as port, pytest.raises(Unavailable, match=f"is not known by its certificate .*{said}"):
            greet(host, port, flags.tls(known))


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    wrong = re.escape(f"RAY_TLS_CA_CERT={tmp_path / flags.CA}")
    with pytest.raises(InvalidInput, match=f"{wrong}, .* are not a certificate of a cluster: .*No such file"):
        greet("127.0.0.1", 1, flags.tls(tmp_path))
    with pytest.raises(InvalidInput, match="RAY_TLS_CA_CERT=, "):
        greet("127.0.0.1", 1, {flags.USE_TLS: "1"})


def test_where_nobody_listens_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"does not answer: .*refused"):
        greet("127.0.0.1", free_port(), flags.tls(made(tmp_path / "a")))
