"""Notifiers against real servers of this machine: what arrives, what is refused, and that no secret gets out."""

from __future__ import annotations

import base64
import email
import logging
import math
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from mlplat import notify
from mlplat.errors import InvalidInput, MlplatError, Refused, Unavailable
from mlplat.notify import DEADLINE_S, Email, InMemoryNotifier, Message, Notifier, Slack, Webhook, deliver, listed
from tests import certificates
from tests.notify_servers import HERE, Mailbox, hook, mailbox

MESSAGE = Message(
    subject="mlplat: training 'late' finished",
    text="Version 3 of 'late'.\nBest epoch: größer < 0.5 & <!channel>.",
    event="finished",
    name="late",
    run_id="r1",
    facts={"version": 3, "best_auc": 0.75, "best_f1": None},
)
SECRET = "https://hooks.example.com/services/T0/s3cret?key=s3cret"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Where connections are taken and nothing is ever answered."""
    with socket.create_server((HERE, 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server((HERE, 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.certificate(tmp_path_factory.mktemp("tls"))


def mail_to(box: Mailbox, **given: Any) -> Email:
    return Email(
        **{"host": HERE, "port": box.port, "sender": "ml@here.org", "to": "ada@here.org", "tls": False, **given}
    )


def raised(notifier: Notifier) -> MlplatError:
    with pytest.raises(MlplatError) as caught:
        notifier.send(MESSAGE)
    return caught.value


def test_a_webhook_gets_every_field_as_json() -> None:
    with hook() as server:
        Webhook(server.url).send(MESSAGE)
    assert server.asked == [("POST", "/services/T0/s3cret?key=s3cret")]
    assert server.bodies == [
        {
            "event": "finished",
            "name": "late",
            "run_id": "r1",
            "subject": MESSAGE.subject,
            "text": MESSAGE.text,
            "facts": {"version": 3, "best_auc": 0.75, "best_f1": None},
        }
    ]


def test_a_webhook_checks_the_certificate(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hook(certificate=certificate) as server:
        error = raised(Webhook(server.url))
        assert isinstance(error, Unavailable)
        assert "certificate verify failed" in str(error)
        assert server.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("ca.pem")))
        Webhook(server.url).send(MESSAGE)
    assert len(server.bodies) == 1


def test_slack_gets_a_text_that_calls_nobody() -> None:
    with hook() as server:
        Slack(server.url).send(MESSAGE)
    (body,) = server.bodies
    assert body == {
        "text": f"*{MESSAGE.subject}*\nVersion 3 of 'late'.\nBest epoch: größer &lt; 0.5 &amp; &lt;!channel&gt;."
    }


def test_memory_keeps_messages_in_order() -> None:
    memory = InMemoryNotifier()
    memory.send(MESSAGE)
    memory.send(MESSAGE)
    assert memory.messages == [MESSAGE, MESSAGE]


@pytest.mark.parametrize("kind", [Webhook, Slack])
@pytest.mark.parametrize(
    ("status", "error", "remedy"),
    [
        (404, Refused, "check its URL"),
        (302, Refused, "check its URL"),
        (429, Unavailable, "later"),
        (503, Unavailable, "later"),
    ],
)
def test_an_answer_that_is_no_success_is_an_error_that_names_the_host_alone(
    kind: type[Webhook], status: int, error: type[MlplatError], remedy: str
) -> None:
    with hook(status, headers={"Location": "/elsewhere"}) as server:
        found = raised(kind(server.url))
    assert type(found) is error
    assert str(found).startswith(f"{HERE} answered {status}")
    assert remedy in str(found)
    assert "s3cret" not in "".join(traceback.format_exception(found))
    assert [method for method, _ in server.asked] == ["POST"], "redirects are not followed"


def test_a_server_that_is_not_there_or_does_not_answer_is_unavailable(
    silent_port: int, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.05)
    for port, why in ((silent_port, "timed out"), (closed_port, "refused")):
        there = {"host": HERE, "port": port, "sender": "ml@here.org", "to": "ada@here.org", "tls": False}
        for notifier in (
            Webhook(f"http://{HERE}:{port}/s3cret"),
            Slack(f"http://{HERE}:{port}/s3cret"),
            Email(**there),
        ):
            error = raised(notifier)
            assert isinstance(error, Unavailable)
            assert HERE in str(error)
            assert why in str(error)
            assert "s3cret" not in "".join(traceback.format_exception(error))


def test_a_server_that_speaks_something_else_is_not_quoted() -> None:
    with mailbox(answers={"CONNECT": "s3cret"}) as box:
        error = raised(Webhook(f"http://{HERE}:{box.port}/s3cret"))
    assert isinstance(error, Unavailable)
    assert str(error) == f"{HERE} cannot be reached: BadStatusLine"


def test_no_log_and_no_repr_has_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with hook() as server:
        Webhook(server.url).send(MESSAGE)
        Slack(server.url).send(MESSAGE)
    shown = {"host": "mail.here.org", "port": 587, "sender": "ml@here.org", "to": ["ada@here.org"]}
    mail = Email(**shown, user="ml", password="s3cret")
    assert repr(Webhook(SECRET)) == "Webhook('hooks.example.com')"
    assert str(Slack(SECRET)) == "Slack('hooks.example.com')"
    assert "mail.here.org" in repr(mail)
    assert "s3cret" not in f"{mail!r} {caplog.text}"


@pytest.mark.parametrize("kind", [Webhook, Slack])
@pytest.mark.parametrize(
    "url",
    [
        None,
        b"https://s3cret",
        "",
        "s3cret",
        "ftp://here.org/s3cret",
        "file:///s3cret",
        "https:///s3cret",
        "https://.org/s3cret",
        "https://here.org:s3cret/",
        "https://[s3cret/",
        "https://me:s3cret@here.org/",
        "https://here.org/s3cret\r\nHost: there.org",
        "https://here.org/s3cret now",
        "https://here.org/s3crét",
    ],
)
def test_a_url_that_is_none_is_refused_and_not_shown(kind: type[Webhook], url: Any) -> None:
    with pytest.raises(InvalidInput, match="webhook's URL") as caught:
        kind(url)
    assert "s3cr" not in "".join(traceback.format_exception(caught.value)).replace("kind(url)", "")


def test_a_mail_arrives_whole() -> None:
    with mailbox() as box:
        mail_to(box, to=["Ada <ada@here.org>", "bob@there.org"]).send(MESSAGE)
    (text,) = box.mails
    mail = email.message_from_string(text, policy=default)
    assert (mail["Subject"], mail["From"]) == (MESSAGE.subject, "ml@here.org")
    assert mail["To"] == "Ada <ada@here.org>, bob@there.org"
    assert mail.get_content().strip().replace("\r\n", "\n") == MESSAGE.text
    assert [line for line in box.said if line.startswith("rcpt")] == [
        "rcpt TO:<ada@here.org>",
        "rcpt TO:<bob@there.org>",
    ]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_password_is_sent_under_tls(certificate: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("ca.pem")))
    with mailbox(certificate=certificate, at_once=at_once) as box:
        monkeypatch.setattr(notify, "SMTPS_PORT", box.port if at_once else 465)
        mail_to(box, tls=True, user="ml", password="s3cret").send(MESSAGE)
    verbs = [line.split()[0].upper() for line in box.said]
    assert verbs == [*([] if at_once else ["EHLO", "STARTTLS"]), "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]
    (login,) = (line for line in box.said if line.startswith("AUTH"))
    assert base64.b64decode(login.split()[2]) == b"\0ml\0s3cret"
    assert len(box.mails) == 1


def test_a_mail_server_that_is_not_trusted_gets_nothing(certificate: Path) -> None:
    with mailbox(certificate=certificate) as box:
        error = raised(mail_to(box, tls=True, user="ml", password="s3cret"))
    assert isinstance(error, Unavailable)
    assert "certificate verify failed" in str(error)
    assert [line.split()[0].upper() for line in box.said] == ["EHLO", "STARTTLS"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "error", "says"),
    [
        ({"CONNECT": "421 too busy"}, Unavailable, "answered 421"),
        ({"MAIL": "550 who are you"}, Refused, "answered 550"),
        ({"DATA": "451 later"}, Unavailable, "answered 451"),
        ({"RCPT": "550 nobody"}, Refused, "refused to deliver to ada@here.org, bob@here.org"),
        ({"rcpt TO:<bob@here.org>": "550 nobody"}, Refused, "refused to deliver to bob@here.org"),
    ],
)
def test_what_a_mail_server_refuses_is_an_error(answers: dict[str, str], error: type[MlplatError], says: str) -> None:
    with mailbox(answers=answers) as box:
        found = raised(mail_to(box, to=["ada@here.org", "bob@here.org"]))
    assert type(found) is error
    assert says in str(found)


def test_a_wrong_password_and_a_server_without_tls_are_refused(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("ca.pem")))
    with mailbox(certificate=certificate, answers={"AUTH": "535 s3cret is wrong"}) as box:
        error = raised(mail_to(box, tls=True, user="ml", password="s3cret"))
    assert str(error) == f"{HERE} answered 535 (SMTPAuthenticationError)"
    assert isinstance(error, Refused)
    with mailbox() as box:
        assert "STARTTLS" in str(raised(mail_to(box, tls=True, user="ml", password="s3cret")))
    assert not any(line.startswith("AUTH") for line in box.said)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"host": ""}, "host"),
        ({"host": "mail..org"}, "host"),
        ({"host": None}, "host"),
        ({"port": 0}, "port"),
        ({"port": "25"}, "port"),
        ({"port": True}, "port"),
        ({"to": []}, "to must be"),
        ({"to": ""}, "to must be"),
        ({"to": 5}, "to must be"),
        ({"to": "ada"}, "'ada' is not"),
        ({"to": ["ada@here.org", None]}, "None is not"),
        ({"to": "ada@here.org\nBcc: eve@there.org"}, "is not an e-mail address"),
        ({"sender": "@"}, "'@' is not"),
        ({"user": "ml"}, "go together"),
        ({"password": "s3cret"}, "go together"),
        ({"user": "ml", "password": "s3cret", "tls": False}, "in the clear"),
    ],
)
def test_a_mail_that_can_never_arrive_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        mail_to(Mailbox(port=25), **{"tls": True, **given})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"event": "done"}, "must be one of finished, failed, interrupted"),
        ({"subject": ""}, "one line"),
        ({"subject": None}, "subject=None must be a text"),
        ({"text": 5}, "text=5 must be a text"),
        ({"subject": "two\nlines"}, "one line"),
        ({"facts": {"auc": math.nan}}, "facts\\['auc'\\]=nan must be"),
        ({"facts": {"when": datetime(2026, 1, 1)}}, "facts\\['when'\\]"),
        ({"facts": {"many": [1]}}, "facts\\['many'\\]"),
    ],
)
def test_a_message_that_cannot_be_sent_everywhere_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        Message(**{"subject": "s", "text": "t", "event": "failed", "name": "late", **change})


@pytest.mark.parametrize("make", [InMemoryNotifier, lambda: Webhook(SECRET), lambda: Slack(SECRET)])
def test_each_is_a_notifier(make: Callable[[], Notifier]) -> None:
    assert isinstance(make(), Notifier)


class Raising:
    """Raises the errors in turn, then takes what comes."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.tries = list(errors), 0

    def send(self, message: Message) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)


class Stuck:
    def __init__(self) -> None:
        self.let_go = threading.Event()

    def send(self, message: Message) -> None:
        self.let_go.wait()


def test_a_busy_server_is_tried_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    notes: list[str] = []
    with hook(503, 200) as server:
        deliver(MESSAGE, [Webhook(server.url)], notes.append)
    assert len(server.bodies) == 2
    assert notes == []


@pytest.mark.parametrize(
    ("errors", "tries", "says"),
    [
        ([Unavailable("here is away")], 2, None),
        ([Unavailable("here is away")] * 2, 2, "here is away"),
        ([Refused("here says no")], 1, "here says no"),
        ([RuntimeError("https://here.org/s3cret")], 1, "its send raised RuntimeError"),
        ([SystemExit()], 1, "its send raised SystemExit"),
    ],
)
def test_what_does_not_arrive_is_noted_and_no_error(errors: list[BaseException], tries: int, says: str | None) -> None:
    notes, notifier, memory = list[str](), Raising(*errors), InMemoryNotifier()
    deliver(MESSAGE, [notifier, memory], notes.append)
    assert notifier.tries == tries
    assert notes == ([] if says is None else [f"Raising was not notified: {says}"])
    assert memory.messages == [MESSAGE]


def test_a_notifier_that_never_ends_is_let_go() -> None:
    notes, stuck, memory = list[str](), Stuck(), InMemoryNotifier()
    deliver(MESSAGE, [stuck, memory], notes.append, within_s=0.05)
    assert notes == ["Stuck was not notified: it took more than 0.05 s"]
    assert memory.messages == [MESSAGE]
    stuck.let_go.set()


def test_two_tries_that_time_out_end_before_the_deadline() -> None:
    assert 2 * notify.TIMEOUT_S < DEADLINE_S


def test_one_notifier_or_several_may_be_given() -> None:
    memory = InMemoryNotifier()
    assert listed(memory) == listed([memory]) == (memory,)
    assert listed(()) == ()
