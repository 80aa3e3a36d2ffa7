"""Whether a node of Ray and this process can talk: both with TLS, each known to the other, or both without. Ray (2.60) itself
waits for minutes, and then ends the process without a word of why."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping

from mlplat._ray import flags
from mlplat.errors import InvalidInput, Unavailable

_ANSWER_S = 5.0


def greet(host: str, port: int, variables: Mapping[str, str]) -> None:
    """Return if a node would talk to a process with these environment variables.

    Raises `Unavailable` if one of them uses TLS and the other does not, or the node's certificate is none of this cluster, or not
    for its address, or has ended; `InvalidInput` if the files that the variables name are none.
    """
    where, ours = f"The Ray cluster at {host}:{port}", flags.uses_tls(variables)
    try:
        _handshake(host, port, _known(variables) if ours else _anybody())
    except ssl.SSLCertVerificationError as error:
        raise Unavailable(
            f"{where} is not known by its certificate ({error.verify_message}): see RAY_TLS_CA_CERT, and whether the cluster's "
            "certificates list that address and have not ended (`mlplat cluster certificates`)"
        ) from None
    except OSError as error:  # without TLS its port makes nothing of the greeting
        if ours:
            none = isinstance(error, ssl.SSLError | ConnectionResetError)
            said = (
                f"does not use TLS, and this process does: unset {flags.USE_TLS}"
                if none
                else f"does not answer: {error}"
            )
            raise Unavailable(f"{where} {said}") from error
    else:
        if not ours:
            raise Unavailable(
                f"{where} uses TLS, and this process does not: set {flags.USE_TLS}=1, and {', '.join(flags.TLS_FILES)} to the "
                "files of the cluster's certificates"
            )


def _handshake(host: str, port: int, context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), timeout=_ANSWER_S) as raw:
        context.wrap_socket(raw, server_hostname=host).close()


def _known(variables: Mapping[str, str]) -> ssl.SSLContext:
    files = {name: variables.get(name, "") for name in flags.TLS_FILES}
    ca, certificate, key = files.values()
    try:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(f"{name}={file}" for name, file in files.items())
        raise InvalidInput(f"{flags.USE_TLS} is set, and {named} are not a certificate of a cluster: {error}") from None
    return context


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
