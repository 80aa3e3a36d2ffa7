"""Where the endpoints of a cluster listen, and how they are reached from this machine."""

from __future__ import annotations

import re
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from mlplat.clock import Clock
from mlplat.config import LOOPBACK
from mlplat.errors import InvalidInput, Unavailable

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_EVERYWHERE = "0.0.0.0"
_POLL_S = 0.05
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """On the interface of an IPv4 address, and with the certificate and key of a PEM file, or in plain HTTP."""

    host: str = LOOPBACK
    tls: str | None = None

    def url(self, port: int) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{reached(self.host)}:{port}"

    def trust(self) -> ssl.SSLContext | None:
        """For a client on this machine: nobody but who holds this very certificate. It is issued for the name by which other
        machines know this one, so names are not compared."""
        if self.tls is None:
            return None
        try:
            own = _CERTIFICATE.findall(Path(self.tls).read_text())[0]  # those that vouch for it come after it
            context = ssl.create_default_context(cadata=own)
        except (OSError, ValueError, IndexError) as error:
            raise InvalidInput(f"tls {self.tls!r}: it cannot be read any more ({error})") from None
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def reached(host: str) -> str:
    """The address by which this machine reaches what listens on `host`."""
    return LOOPBACK if host == _EVERYWHERE else host


def speaks_tls(host: str, port: int, *, patience_s: float, clock: Clock) -> bool:
    """Whether TLS is spoken there; it may be just starting. `Unavailable` if nobody listens for `patience_s` seconds."""
    context = ssl.create_default_context()
    context.check_hostname = False  # nothing is said to whoever it is
    context.verify_mode = ssl.CERT_NONE
    deadline_s = clock.elapsed_s() + patience_s
    while True:
        try:
            with (
                socket.create_connection((reached(host), port), timeout=_ANSWER_S) as plain,
                context.wrap_socket(plain),
            ):
                return True
        except ConnectionRefusedError:
            if clock.elapsed_s() > deadline_s:
                raise Unavailable(f"nobody listens at {reached(host)}:{port} after {patience_s:g} s") from None
            time.sleep(_POLL_S)
        except OSError:  # SSLError is one
            return False
