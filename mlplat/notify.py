"""Telling people what happened: a port, its shapes for a webhook, Slack, e-mail and tests, and the delivery to several.

Apart from training and serving, because it knows nothing of them: it takes a message somewhere, and keeps every secret to
itself.
"""

from __future__ import annotations

import html
import json
import math
import smtplib
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.client import HTTPException
from threading import Thread
from typing import Any, Literal, Protocol, get_args, runtime_checkable
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from mlplat.errors import InvalidInput, MlplatError, Refused, Unavailable

TIMEOUT_S = 5.0
"""Of every step of talking to a server."""
DEADLINE_S = 12.0
"""Longer than two tries that time out; what takes longer is let go."""
SMTPS_PORT = 465
"""Where a server speaks TLS from the first byte."""
BUSY = (408, 429)

Event = Literal["finished", "failed", "interrupted", "breached", "recovered"]
"""How a run ended; or that the objective of an endpoint is not kept, and that it is kept again."""
Plain = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What happened to a run or an endpoint, for people (`subject`, one line, and `text`) and for programs (the rest).

    `name` is that of the training set or of the endpoint, `run_id` a run's record, None if there is none. Values of `facts`
    are texts, finite numbers, booleans or None. Raises `InvalidInput` for anything else.
    """

    subject: str
    text: str
    event: Event
    name: str
    run_id: str | None = None
    facts: Mapping[str, Plain] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.event in get_args(Event), f"event={self.event!r} must be one of {', '.join(get_args(Event))}")
        for name in ("subject", "text", "name"):
            _require(isinstance(getattr(self, name), str), f"{name}={getattr(self, name)!r} must be a text")
        _require(len(self.subject.splitlines()) == 1, f"subject={self.subject!r} must be one line")
        for name, value in self.facts.items():
            plain = isinstance(value, Plain) and not (isinstance(value, float) and not math.isfinite(value))
            _require(plain, f"facts[{name!r}]={value!r} must be a text, a finite number, a boolean or None")


@runtime_checkable
class Notifier(Protocol):
    """Where messages go. Called from any thread, also from several at once."""

    def send(self, message: Message) -> None:
        """Return when the message was taken over. Raise `Unavailable` if another try may help, `Refused` if none will; waits
        are of seconds. No secret is in an error."""


class InMemoryNotifier:
    """Keeps what it is sent, in order."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)


@dataclass(frozen=True, slots=True, repr=False)
class Webhook:
    """POSTs the fields of a message as a JSON object. The URL is a secret: of it only the host is shown.

    Proxies of the environment are used; redirects are not followed. Raises `InvalidInput` for a URL that is none.
    """

    url: str

    def __post_init__(self) -> None:
        _host(self.url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_host(self.url)!r})"

    def send(self, message: Message) -> None:
        _post(self.url, self.body(message))

    def body(self, message: Message) -> dict[str, Any]:
        """What is sent, as JSON."""
        return {
            "event": message.event,
            "name": message.name,
            "run_id": message.run_id,
            "subject": message.subject,
            "text": message.text,
            "facts": dict(message.facts),
        }


class Slack(Webhook):
    """An incoming webhook of Slack, or of what understands the same JSON (Mattermost, Rocket.Chat)."""

    __slots__ = ()

    def body(self, message: Message) -> dict[str, Any]:
        # Escaped as Slack wants it: an error's text with <!channel> in it must not call everybody.
        return {"text": f"*{_escaped(message.subject)}*\n{_escaped(message.text)}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """Mails a message to one address or several. TLS begins with STARTTLS, on port 465 at once; the server's certificate is
    checked. A password is sent only with TLS. Raises `InvalidInput` for what can never work."""

    host: str
    port: int
    sender: str
    to: str | Sequence[str]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = True

    def __post_init__(self) -> None:
        _require(_is_host(self.host), f"host={self.host!r} must be a server's name")
        whole = isinstance(self.port, int) and not isinstance(self.port, bool)
        _require(whole and 0 < self.port < 65_536, f"port={self.port!r} must be a whole number from 1 to 65535")
        _require(isinstance(self.to, Sequence) and bool(self.to), "to must be an address or several")
        for address in (self.sender, *self._recipients):
            _require(_is_address(address), f"{address!r} is not an e-mail address")
        _require((self.user is None) == (self.password is None), "user and password go together: give both or none")
        _require(self.tls or self.password is None, "a password needs tls=True: it would travel in the clear")

    def send(self, message: Message) -> None:
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.subject, self.sender, ", ".join(self._recipients)
        mail.set_content(message.text, cte="quoted-printable")  # not every relay takes 8 bits
        try:
            missed = self._handed_over(mail)
        except smtplib.SMTPRecipientsRefused as error:
            missed = error.recipients
        except smtplib.SMTPResponseException as error:
            kind = Unavailable if error.smtp_code < 500 else Refused
            raise kind(f"{self.host} answered {error.smtp_code} ({type(error).__name__})") from None
        except smtplib.SMTPNotSupportedError as error:
            raise Refused(f"{self.host} cannot do what is needed: {error}") from None
        except OSError as error:
            raise Unavailable(f"{self.host} cannot be reached: {_spelled(error)}") from None
        if missed:
            raise Refused(f"{self.host} refused to deliver to {', '.join(missed)}")

    @property
    def _recipients(self) -> tuple[str, ...]:
        return (self.to,) if isinstance(self.to, str) else tuple(self.to)

    def _handed_over(self, mail: EmailMessage) -> Mapping[str, object]:
        """The recipients that the server refused, if it took others."""
        context, at_once = ssl.create_default_context(), self.tls and self.port == SMTPS_PORT
        session = (
            smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=context)
            if at_once
            else smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)
        )
        with session:
            if self.tls and not at_once:
                session.starttls(context=context)
            if self.user is not None and self.password is not None:
                session.login(self.user, self.password)
            return session.send_message(mail)


def listed(notify: object) -> tuple[Notifier, ...]:
    """One notifier or several. `InvalidInput` for what is none, such as a bare URL, which is not shown."""
    several = notify if isinstance(notify, Sequence) and not isinstance(notify, str) else (notify,)
    for one in several:
        if not isinstance(one, Notifier) or isinstance(one, type):
            kind = one.__name__ if isinstance(one, type) else f"a {type(one).__name__}"
            raise InvalidInput(
                f"notify: {kind} is no notifier. Give a Webhook, Slack or Email of mlplat.notify, or an object with "
                "send(message)"
            )
    return tuple(several)


def deliver(
    message: Message, notifiers: Sequence[Notifier], note: Callable[[str], None], *, within_s: float = DEADLINE_S
) -> None:
    """To all at once, each with a second try. What did not arrive is noted, and no error."""
    deliveries = [_begun(notifier, message) for notifier in notifiers]
    wait(deliveries, timeout=within_s)
    for notifier, delivery in zip(notifiers, deliveries, strict=True):
        why = _failure(delivery) if delivery.done() else f"it took more than {within_s:g} s"
        if why is not None:
            note(f"{type(notifier).__name__} was not notified: {why}")


def _begun(notifier: Notifier, message: Message) -> Future[None]:
    """On a thread that nobody has to wait for, not even the end of the process."""
    delivery: Future[None] = Future()

    def work() -> None:
        try:
            _sent(notifier, message)
        except BaseException as error:  # noqa: BLE001 - it is noted
            delivery.set_exception(error)
        else:
            delivery.set_result(None)

    Thread(target=work, name="mlplat-notify", daemon=True).start()
    return delivery


def _sent(notifier: Notifier, message: Message) -> None:
    with suppress(Unavailable):
        notifier.send(message)
        return
    notifier.send(message)


def _failure(delivery: Future[None]) -> str | None:
    """The message of an error that is not ours may hold a URL, and with it a secret."""
    error = delivery.exception()
    if error is None:
        return None
    return str(error) if isinstance(error, MlplatError) else f"its send raised {type(error).__name__}"


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST arrives as an empty GET: better an error."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: str, body: Mapping[str, Any]) -> None:
    """With urllib, because httpx writes every URL to the log, and this one is a secret."""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", "User-Agent": "mlplat"})
    try:
        build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S).close()
    except HTTPError as error:
        error.close()
        kind = Unavailable if error.code >= 500 or error.code in BUSY else Refused
        remedy = "try again later" if kind is Unavailable else "check its URL"
        raise kind(f"{_host(url)} answered {error.code}: {remedy}") from None
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{_host(url)} cannot be reached: {_spelled(error)}") from None


def _host(url: object) -> str:
    """Of a webhook's URL, which is checked, and is in no error."""
    if not isinstance(url, str):
        raise InvalidInput(f"a webhook's URL must be a text, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number raises
    except ValueError:
        raise InvalidInput("the webhook's URL is not one (not shown: it is a secret)") from None
    if parts.scheme not in {"http", "https"} or host is None or not _is_host(host):
        raise InvalidInput("a webhook's URL must be http://HOST/... or https://HOST/... (not shown: it is a secret)")
    _require("@" not in parts.netloc, "a webhook's URL cannot hold a user and password before its host")
    clean = url.isascii() and url.isprintable() and " " not in url
    _require(clean, "a webhook's URL must be ASCII without spaces or line ends (not shown: it is a secret)")
    return host


def _spelled(error: Exception) -> str:
    """What the network said. What a server said is not repeated: it knows the secret."""
    reason = error.reason if isinstance(error, URLError) else error
    return str(reason) if isinstance(error, OSError) and str(reason) else type(error).__name__


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _is_host(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(text.encode("idna")) and text.isprintable() and " " not in text
    except UnicodeError:
        return False


def _is_address(text: object) -> bool:
    return isinstance(text, str) and len(text.splitlines()) == 1 and "@" in text.strip("@")


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise InvalidInput(message)
