"""Certificates for test servers, from an authority of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM = serialization.Encoding.PEM


def certificate(folder: Path, *, name: str | None = None, password: bytes | None = None) -> Path:
    """`both.pem` in a folder: a key, and a certificate for `name` (default: 127.0.0.1). `ca.pem` beside it vouches for that."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _made(authority, authority, "authority").add_extension(x509.BasicConstraints(True, None), critical=True)
    known_as = x509.IPAddress(ip_address("127.0.0.1")) if name is None else x509.DNSName(name)
    leaf = _made(key, authority, "server").add_extension(x509.SubjectAlternativeName([known_as]), critical=False)
    (folder / "ca.pem").write_bytes(root.sign(authority, hashes.SHA256()).public_bytes(_PEM))
    kept = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, kept)
    both = folder / "both.pem"
    both.write_bytes(private + leaf.sign(authority, hashes.SHA256()).public_bytes(_PEM))
    return both


def _made(key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey, name: str) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    called, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in (name, "authority"))
    return (
        x509.CertificateBuilder(issuer_name=issuer, subject_name=called, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
