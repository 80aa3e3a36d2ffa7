"""Certificates of a cluster, by which its nodes know each other and encrypt what they say: a private authority, and what it
vouches for.

A node of Ray (2.60) shows its certificate as a server and as a client. Whoever calls it wants the address that it calls among
the certificate's alternative names: gRPC takes no wildcard and no network there. So one certificate for all nodes lists each
address that a node may ever have. It is one secret for all, as the cluster's token is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mlplat._ray.flags import CA, CERTIFICATE, KEY
from mlplat.cluster.spec import Spec
from mlplat.disk import write_atomically
from mlplat.errors import InvalidInput, NotFound, Refused

NODES, CA_KEY = "nodes", "ca.key"
"""In the folder of an operator: what goes to the nodes, and what never does."""
CA_DAYS = 3_650
MOST = 1_024
"""Addresses of a certificate. With 2,048 it has 17 kB, and handshakes fail (measured with grpcio 1.85; Ray 2.60 takes 1,024)."""
LOOPBACK = IPv4Address("127.0.0.1")
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def authority(name: str, *, now: datetime) -> Authority:
    """A new one, for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    draft = _draft(f"{name} authority", f"{name} authority", key.public_key(), now, CA_DAYS)
    draft = draft.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Authority(certificate=draft.sign(key, hashes.SHA256()), key=key)


def vouched(
    by: Authority, name: str, addresses: Iterable[IPv4Address], *, days: int, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A new key, and a certificate for nodes at these addresses, and for each on its own machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = str(by.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    draft = _draft(f"{name} node", issuer, key.public_key(), now, days)
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(one) for one in sorted({LOOPBACK, *addresses})]
    draft = draft.add_extension(x509.SubjectAlternativeName(names), critical=False)
    draft = draft.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return draft.sign(by.key, hashes.SHA256()), key


def addresses(networks: Iterable[str]) -> Sequence[IPv4Address]:
    """Of all hosts in networks such as "10.0.0.0/24" or "10.0.0.7". Raises `InvalidInput`, `Refused` for too many."""
    found: set[IPv4Address] = set()
    for given in networks:
        try:
            network = IPv4Network(given)
        except ValueError as error:
            raise InvalidInput(f"{given}: give an IPv4 address or network, as in 10.0.0.0/24 ({error})") from None
        if network.num_addresses <= MOST:  # else it is not counted out: a /8 has 16 million
            found.update(network.hosts())
        if network.num_addresses > MOST or len(found) > MOST:
            raise Refused(
                f"{given}: a certificate lists each address, and with more than {MOST:,} of them Ray's nodes cannot greet each "
                "other: put the machines of this cluster into smaller networks, such as a /24"
            )
    return sorted(found)


def networks(spec: Spec, given: Sequence[str]) -> Sequence[str]:
    """Where the machines of a cluster are: its own hosts, and the `given` networks. Raises `InvalidInput` if the addresses of
    some are in neither."""
    hosts = {host for kind in spec.types.values() for host in kind.hosts}
    plain = [host for host in hosts if _is_address(host)]
    unknown = [kind.name for kind in spec.types.values() if kind.offers or not set(kind.hosts) <= set(plain)]
    if unknown and not given:
        raise InvalidInput(
            f"the addresses of {', '.join(unknown)} are not in the file: give --network for each network where they get them, "
            "as in --network 10.0.0.0/24"
        )
    return [*sorted(plain), *given]


def write(folder: Path, name: str, networks: Iterable[str], *, days: int, renew: bool, now: datetime) -> datetime:
    """The authority, and what each node needs: `nodes/` goes to the machines, `ca.key` stays. Returns when they end.

    With `renew`, the authority that is there vouches for a new key: nodes with the old one and nodes with the new one go on
    talking. Raises `Refused` if anything would be overwritten otherwise, `NotFound` if there is none to renew.
    """
    listed, nodes = addresses(networks), folder / NODES
    if renew:
        by = _read(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise Refused(
            f"{folder} is not empty, and nothing is overwritten: give another folder, or --renew for new certificates"
        )
    else:
        by = authority(name, now=now)
    certificate, key = vouched(by, name, listed, days=days, now=now)
    for place in (folder, nodes):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {folder / CA_KEY: _pem(by.key), nodes / KEY: _pem(key)}
    files |= {nodes / CERTIFICATE: certificate.public_bytes(_PEM), nodes / CA: by.certificate.public_bytes(_PEM)}
    for file, raw in files.items():
        write_atomically(file, raw)  # for their owner alone
    return min(certificate.not_valid_after_utc, by.certificate.not_valid_after_utc)


def ends(file: Path) -> datetime:
    """When a certificate does."""
    return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc


def _read(folder: Path) -> Authority:
    try:
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / NODES / CA).read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"there is nothing to renew in {folder}: there is no {error.filename}") from None
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Authority(certificate=certificate, key=key)


def _is_address(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _draft(name: str, issuer: str, key: ec.EllipticCurvePublicKey, now: datetime, days: int) -> x509.CertificateBuilder:
    """Valid from yesterday on, since clocks differ."""
    subject, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, issuer))
    builder = x509.CertificateBuilder(issuer_name=by, subject_name=subject, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=days))
