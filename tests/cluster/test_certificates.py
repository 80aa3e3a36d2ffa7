"""The certificates of a cluster: what they vouch for, who may read them, and what gRPC makes of them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography import x509

from mlplat._ray.flags import CA, CERTIFICATE, KEY
from mlplat.cluster.certificates import CA_KEY, MOST, NODES, addresses, ends, networks, write
from mlplat.cluster.spec import parse
from mlplat.errors import InvalidInput, NotFound, Refused

CLUSTERS = Path(__file__).parents[2] / "clusters"
NOW = datetime.now(UTC).replace(microsecond=0)
LOOPBACK = IPv4Address("127.0.0.1")


def made(folder: Path, *given: str, days: int = 30, renew: bool = False, now: datetime = NOW) -> datetime:
    return write(folder, "onprem", given, days=days, renew=renew, now=now)


def listed(folder: Path) -> list[IPv4Address]:
    found = x509.load_pem_x509_certificate((folder / NODES / CERTIFICATE).read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.IPAddress)  # type: ignore[return-value]


def files(folder: Path) -> tuple[bytes, bytes, bytes]:
    ca, key, certificate = ((folder / NODES / name).read_bytes() for name in (CA, KEY, CERTIFICATE))
    return ca, key, certificate


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """As `ray._common.tls_utils.add_port_to_grpc_server` has it."""
    ca, key, certificate = files(folder)
    found = grpc.server(ThreadPoolExecutor(2))
    port = found.add_secure_port(
        "0.0.0.0:0", grpc.ssl_server_credentials([(key, certificate)], root_certificates=ca, require_client_auth=True)
    )
    found.start()
    try:
        yield port
    finally:
        found.stop(None).wait()


def answer(target: str, folder: Path | None) -> str:
    """Of the server to a caller with what is in a folder: it knows no method, but that it says to those that it knows."""
    if folder is None:
        channel = grpc.insecure_channel(target)
    else:
        ca, key, certificate = files(folder)
        given = {"root_certificates": ca, "private_key": key, "certificate_chain": certificate}
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(**given))
    with channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/of/none")(b"", timeout=20)
    return str(raised.value.code().name)


def test_nodes_get_no_key_of_the_authority_and_all_is_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "onprem.tls"
    assert made(folder, "10.0.0.10") == NOW + timedelta(days=30) == ends(folder / NODES / CERTIFICATE)
    assert sorted(path.name for path in (folder / NODES).iterdir()) == [CA, KEY, CERTIFICATE]
    assert sorted(path.name for path in folder.iterdir()) == [CA_KEY, NODES]
    assert (folder / CA_KEY).read_bytes() not in [path.read_bytes() for path in (folder / NODES).iterdir()]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes == {folder.name: 0o700, NODES: 0o700, CA_KEY: 0o600, CA: 0o600, KEY: 0o600, CERTIFICATE: 0o600}


def test_a_certificate_lists_each_address_of_the_networks_and_this_machine(tmp_path: Path) -> None:
    made(tmp_path / "a", "10.0.0.10", "10.0.1.0/29", "10.0.1.4")
    within = [IPv4Address("10.0.1.0") + at for at in range(1, 7)]
    assert listed(tmp_path / "a") == [IPv4Address("10.0.0.10"), *within, LOOPBACK]


def test_nothing_is_overwritten_and_what_is_renewed_is_of_the_same_authority(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with pytest.raises(NotFound, match=r"nothing to renew in .*ca\.key"):
        made(folder, "10.0.0.10", renew=True)
    made(folder, "10.0.0.10")
    ca, key, certificate = files(folder)
    with pytest.raises(Refused, match="is not empty, and nothing is overwritten"):
        made(folder, "10.0.0.11")
    assert files(folder) == (ca, key, certificate)
    later = NOW + timedelta(days=20)
    assert made(folder, "10.0.0.11", renew=True, now=later) == later + timedelta(days=30)
    assert files(folder)[0] == ca
    assert files(folder)[1] != key
    assert listed(folder) == [IPv4Address("10.0.0.11"), LOOPBACK]


def test_what_an_authority_vouches_for_does_not_outlive_it_unsaid(tmp_path: Path) -> None:
    assert made(tmp_path / "a", days=9_999) == NOW + timedelta(days=3_650)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("10.0.0.1/24", InvalidInput, "has host bits set"),
        ("gpu1", InvalidInput, "give an IPv4 address or network"),
        ("10.0.0.0/8", Refused, "more than 1,024 of them"),
    ],
)
def test_what_is_no_network_or_too_large_is_refused(given: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=f"^{given}: .*{said}"):
        addresses(["10.0.0.7", given])


def test_small_networks_may_not_be_too_many_together() -> None:
    assert len(addresses(["10.0.0.0/23", "10.0.2.0/24", "10.0.2.9"])) == 510 + 254
    with pytest.raises(Refused, match=r"^10\.0\.4\.0/23: "):
        addresses(["10.0.0.0/23", "10.0.2.0/23", "10.0.4.0/23"])


def test_a_node_is_known_by_its_address_and_its_authority_alone(tmp_path: Path) -> None:
    ours, others = tmp_path / "a", tmp_path / "b"
    made(ours, "10.0.0.10")
    made(others, "10.0.0.10")
    with server(ours) as port:
        told = {
            "known": answer(f"127.0.0.1:{port}", ours),
            "at an address that is not listed": answer(f"127.0.0.2:{port}", ours),
            "of another authority": answer(f"127.0.0.1:{port}", others),
            "without any": answer(f"127.0.0.1:{port}", None),
        }
        made(ours, "10.0.0.11", renew=True)
        told["renewed"] = answer(f"127.0.0.1:{port}", ours)
    unknown = dict.fromkeys(("at an address that is not listed", "of another authority", "without any"), "UNAVAILABLE")
    assert told == {"known": "UNIMPLEMENTED", "renewed": "UNIMPLEMENTED", **unknown}


def test_grpc_takes_a_certificate_with_as_many_addresses_as_one_may_have(tmp_path: Path) -> None:
    made(tmp_path / "a", "10.0.0.0/23", "10.0.2.0/23", *(f"10.0.4.{at}" for at in range(4)))
    assert len(listed(tmp_path / "a")) == MOST + 1
    with server(tmp_path / "a") as port:
        assert answer(f"127.0.0.1:{port}", tmp_path / "a") == "UNIMPLEMENTED"


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTERS / name).read_text())
    return found


def test_own_hosts_are_listed_and_networks_of_others_must_be_given() -> None:
    own = [f"10.0.0.{at}" for at in (10, 11, 12)]
    spec = parse(config("onprem.yaml"))
    assert networks(spec, []) == [*own, "10.0.1.21", "10.0.1.22"]
    bursts = parse(config("onprem-burst-aws.yaml"))
    assert networks(bursts, ["10.1.0.0/24"]) == [*own, "10.1.0.0/24"]
    with pytest.raises(InvalidInput, match=r"addresses of aws\.gpu are not in the file: give --network"):
        networks(bursts, [])
    named = config("onprem.yaml")
    named["available_node_types"]["onprem.gpu"]["node_config"]["hosts"] = ["gpu1", "10.0.0.12"]
    with pytest.raises(InvalidInput, match=r"addresses of onprem\.gpu are not in the file"):
        networks(parse(named), [])
    assert networks(parse(named), ["10.0.0.11"])[1] == "10.0.0.12"
