"""Servers on the loopback interface that take what notifiers send."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer, StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

HERE = "127.0.0.1"


@contextmanager
def _running(server: BaseServer) -> Iterator[None]:
    thread = Thread(target=server.serve_forever, args=(0.005,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _tls(certificate: Path) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    return tls


@dataclass
class Hook:
    """What arrived, and what is answered: the statuses in turn, the last one for good."""

    port: int = 0
    scheme: str = "http"
    statuses: list[int] = field(default_factory=lambda: [200])
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HERE}:{self.port}/services/T0/s3cret?key=s3cret"


@contextmanager
def hook(*statuses: int, headers: dict[str, str] | None = None, certificate: Path | None = None) -> Iterator[Hook]:
    """With a certificate (a file with its key) it speaks HTTPS."""
    found = Hook(statuses=list(statuses) or [200], headers=headers or {})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.asked.append((self.command, self.path))
            found.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(found.statuses.pop(0) if len(found.statuses) > 1 else found.statuses[0])
            for name, value in {"Content-Length": "0", **found.headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            found.asked.append((self.command, self.path))

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer((HERE, 0), Handler)
    found.port = server.server_address[1]
    if certificate is not None:
        found.scheme, server.socket = "https", _tls(certificate).wrap_socket(server.socket, server_side=True)
    with _running(server):
        yield found


@dataclass
class Mailbox:
    """What an SMTP server was told, line by line, and the mails. `answers` replaces those to commands."""

    port: int = 0
    said: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)


@contextmanager
def mailbox(
    *, certificate: Path | None = None, at_once: bool = False, answers: dict[str, str] | None = None
) -> Iterator[Mailbox]:
    """With a certificate (a file with its key) it offers STARTTLS, or speaks TLS `at_once`."""
    found = Mailbox(answers=answers or {})

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            try:
                if at_once:
                    self.wrap()
                self.talk()
            except OSError:  # a client that does not trust the certificate hangs up
                return

        def wrap(self) -> None:
            assert certificate is not None
            self.connection = _tls(certificate).wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)

        def finish(self) -> None:
            for one in (self.rfile, self.wfile, self.connection):
                one.close()

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def talk(self) -> None:
            self.say(found.answers.get("CONNECT", "220 here"))
            while line := self.rfile.readline().decode().strip():
                found.said.append(line)
                verb = line.split()[0].upper()
                answer = found.answers.get(line, found.answers.get(verb))
                if answer is not None:
                    self.say(answer)
                elif verb == "EHLO":
                    offers = [] if certificate is None or isinstance(self.connection, ssl.SSLSocket) else ["STARTTLS"]
                    for offer in ["here", "AUTH PLAIN", *offers]:
                        self.say(f"250-{offer}")
                    self.say("250 8BITMIME")
                elif verb == "STARTTLS":
                    self.say("220 go on")
                    self.wrap()
                elif verb == "DATA":
                    self.say("354 go on")
                    lines = iter(lambda: self.rfile.readline().decode(), ".\r\n")
                    found.mails.append("".join(lines))
                    self.say("250 taken")
                else:
                    self.say({"AUTH": "235 known", "QUIT": "221 bye"}.get(verb, "250 well"))
                if verb == "QUIT":
                    return

    with ThreadingTCPServer((HERE, 0), Handler) as server, _running(server):
        found.port = server.server_address[1]
        yield found
