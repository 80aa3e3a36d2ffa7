"""Bearer tokens of callers, by endpoint: in HOME/tokens.json, as their SHA-256 alone. A token is shown once, when it is made.

A name that ever had a token asks for one from then on, also when the last was revoked or has expired: a lost token must
never open the door. To let everybody in again, remove the name from the file.
"""

from __future__ import annotations

import fcntl
import hmac
import ipaddress
import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from mlplat.clock import Clock
from mlplat.disk import write_atomically
from mlplat.errors import Corrupt, NotFound
from mlplat.features.definitions import duration_us
from mlplat.serve.http import HttpError

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_MAX_HEADER = 512
_SCHEME = b"bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is known of a token. `id` is also the part of it before the first dot."""

    id: str
    created_us: int
    expires_us: int | None
    sha256: str = field(repr=False)

    def expired(self, now_us: int) -> bool:
        return self.expires_us is not None and now_us >= self.expires_us


def create(home: Path, name: str, *, now_us: int, expires: str | None = None) -> str:
    """A new token for an endpoint, valid beside the others. `expires` is a duration such as "90d"; None is never."""
    made = f"{secrets.token_hex(4)}.{secrets.token_urlsafe(32)}"
    token = Token(
        id=made.partition(".")[0],
        created_us=now_us,
        expires_us=None if expires is None else now_us + duration_us(expires),
        sha256=sha256(made.encode()).hexdigest(),
    )
    with _changing(home) as tokens:
        tokens[name] = (*tokens.get(name, ()), token)
    return made


def revoke(home: Path, name: str, token: str) -> None:
    """By its id, or the whole token. `NotFound` if there is none; its message does not repeat what was given."""
    with _changing(home) as tokens:
        there = tokens.get(name, ())
        kept = tuple(one for one in there if one.id != token.partition(".")[0])
        if len(kept) == len(there):
            known = f"its ids: {', '.join(one.id for one in there)}" if there else "it has none"
            raise NotFound(f"{name!r} has no such token; {known}.")
        tokens[name] = kept


def read(home: Path) -> dict[str, tuple[Token, ...]]:
    """By endpoint. `Corrupt` if the file is not what was written."""
    try:
        text = _path(home).read_text()
    except FileNotFoundError:
        return {}
    try:
        return {name: tuple(Token(**one) for one in tokens) for name, tokens in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        raise Corrupt(f"{_path(home)} is not what was written. Restore it, or remove it and make new tokens.") from None


def loopback(host: str) -> bool:
    """Whether only programs of this machine reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """Lets callers in. Sees changes of the file within a second; it looks no more often than that.

    Beyond the loopback interface a name without tokens lets nobody in.
    """

    def __init__(self, home: Path, clock: Clock, *, host: str) -> None:
        self._home = home
        self._clock = clock
        self._open = loopback(host)
        self._tokens: Mapping[str, Sequence[tuple[bytes, int | None]]] = {}
        self._stamp: tuple[int, ...] | None = None
        self._looked_s: float | None = None

    def check(self, name: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """`HttpError` 401 for a caller without a valid token of this endpoint, 503 where the tokens cannot be read."""
        self._look()
        tokens = self._tokens.get(name)
        if tokens is None and self._open:
            return
        given = [value for key, value in headers if key == b"authorization"]
        if len(given) != 1 or given[0][: len(_SCHEME)].lower() != _SCHEME or len(given[0]) > _MAX_HEADER:
            raise _refused(f"{name!r} asks for a token: send it as Authorization: Bearer TOKEN", b"")
        digest = sha256(given[0][len(_SCHEME) :].strip()).digest()
        now_us = self._clock.now_us()
        found = False
        for known, expires_us in tokens or ():  # all of them, whichever fits: time must not tell
            valid = expires_us is None or now_us < expires_us
            found |= hmac.compare_digest(known, digest) and valid
        if not found:
            raise _refused(f"this is no valid token of {name!r}: it is wrong, revoked or expired", b"invalid_token")

    def _look(self) -> None:
        now_s = self._clock.elapsed_s()
        if self._looked_s is not None and now_s - self._looked_s < _LOOK_S:
            return
        stamp = _stamp(_path(self._home))
        if self._looked_s is None or stamp != self._stamp:
            try:
                self._tokens = {
                    name: tuple((bytes.fromhex(one.sha256), one.expires_us) for one in tokens)
                    for name, tokens in read(self._home).items()
                }
            except (Corrupt, OSError, ValueError) as error:
                _log.error("the tokens of callers cannot be read, nobody is let in: %s", error)
                raise HttpError(503, "unavailable", "the tokens of callers cannot be read here") from None
            self._stamp = stamp
        self._looked_s = now_s


def _refused(message: str, error: bytes) -> HttpError:
    challenge = b'Bearer realm="mlplat"' + (b', error="' + error + b'"' if error else b"")
    return HttpError(401, "unauthorized", message, headers=[(b"www-authenticate", challenge)])


def _stamp(path: Path) -> tuple[int, ...]:
    """Another one for each change: the file is replaced as a whole."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def _changing(home: Path) -> Iterator[dict[str, tuple[Token, ...]]]:
    """Read, change, write atomically; one process at a time. An error changes nothing."""
    home.mkdir(parents=True, exist_ok=True)
    with _path(home).with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = read(home)
        yield tokens
        found = {name: [asdict(one) for one in own] for name, own in tokens.items()}
        write_atomically(_path(home), json.dumps(found, indent=1).encode())


def _path(home: Path) -> Path:
    return home / "tokens.json"
