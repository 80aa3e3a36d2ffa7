"""A bought machine that its head has forgotten, or that its cloud takes away."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mlplat.cluster.guard import GCP_NOTICE_S, Do, Watch, notice_of, ran, run, step
from mlplat.cluster.hosts import answers
from mlplat.testing.clock import ManualClock

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
LEASE_S = 3_000.0


def test_a_machine_ends_when_its_head_was_silent_for_its_lease_and_not_before() -> None:
    watch = Watch(heard_s=0.0)
    for now_s, heard in [(100, True), (3_000, False), (3_099, False)]:
        watch, do = step(watch, heard=heard, notice_s=None, lease_s=LEASE_S, now_s=now_s)
        assert do == Do()
    assert step(watch, heard=True, notice_s=None, lease_s=LEASE_S, now_s=3_100)[1] == Do()
    assert step(watch, heard=False, notice_s=None, lease_s=LEASE_S, now_s=3_100)[1] == Do(end=True)


def test_a_machine_that_is_taken_away_is_drained_as_soon_as_its_head_hears_that_and_once() -> None:
    watch = Watch(heard_s=0.0)
    assert step(watch, heard=False, notice_s=110, lease_s=LEASE_S, now_s=10)[1] == Do()
    assert step(watch, heard=True, notice_s=100, lease_s=LEASE_S, now_s=20)[1] == Do(drain=100)
    told = Watch(heard_s=0.0, told=True)
    assert step(told, heard=True, notice_s=90, lease_s=LEASE_S, now_s=30)[1] == Do()


def test_it_goes_on_until_the_head_is_gone() -> None:
    clock, done, tries, ends = ManualClock(NOW), [], iter([False, True]), iter([False, True])
    with socket.create_server(("127.0.0.1", 0)) as head:
        looks = iter(range(10_000))

        def wait(seconds: float) -> None:
            clock.advance(timedelta(seconds=seconds))
            if next(looks) == 5:
                head.close()

        def drain(seconds: float) -> bool:
            done.append(f"drain {seconds:g}")
            return next(tries)

        def end() -> bool:
            done.append("end")
            return next(ends)

        host, port = head.getsockname()
        run(
            heard=lambda: answers(port)(host),
            lease_s=600,
            every_s=5,
            notice=lambda: 120.0,
            drain=drain,
            end=end,
            clock=clock,
            wait=wait,
        )
    assert done == ["drain 120", "drain 120", "end", "end"]
    assert (clock.now_us() / 1e6 - NOW.timestamp()) == pytest.approx(5 * 5 + 600, abs=10)


@contextmanager
def metadata(answers: dict[tuple[str, str], str]) -> Iterator[str]:
    """A cloud's metadata service: what it answers by method and path, to who sends the right header."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            said = answers.get((self.command, self.path))
            allowed = any(
                name.lower().endswith(("metadata-token", "ttl-seconds", "flavor", "metadata")) for name in self.headers
            )
            self.send_response(200 if said is not None and allowed else 404)
            self.end_headers()
            if said is not None and allowed:
                self.wfile.write(said.encode())

        do_GET = do_PUT = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


AWS = ("GET", "/latest/meta-data/spot/instance-action")
GCP = ("GET", "/computeMetadata/v1/instance/preempted")
AZURE = ("GET", "/metadata/scheduledevents?api-version=2020-07-01")
EVENT = {"EventType": "Preempt", "NotBefore": "Mon, 15 Jun 2026 12:00:30 GMT"}


@pytest.mark.parametrize(
    ("service", "answers", "seconds"),
    [
        ("aws", {("PUT", "/latest/api/token"): "t"}, None),
        (
            "aws",
            {("PUT", "/latest/api/token"): "t", AWS: '{"action": "terminate", "time": "2026-06-15T12:02:00Z"}'},
            120,
        ),
        ("gcp", {GCP: "FALSE"}, None),
        ("gcp", {GCP: "TRUE"}, GCP_NOTICE_S),
        ("azure", {AZURE: json.dumps({"Events": [{**EVENT, "EventType": "Reboot"}]})}, None),
        ("azure", {AZURE: json.dumps({"Events": [EVENT]})}, 30),
        ("azure", {AZURE: json.dumps({"Events": [{**EVENT, "NotBefore": ""}]})}, 0),
        ("azure", {}, None),
        ("azure", {AZURE: "<html>busy</html>"}, None),
        ("azure", {AZURE: '{"Events": [{}]}'}, None),
        ("aws", {("PUT", "/latest/api/token"): "t", AWS: '{"action": "stop", "time": "soon"}'}, None),
        (None, {}, None),
    ],
)
def test_each_cloud_says_in_its_way_that_it_takes_a_machine(
    service: str | None, answers: dict[tuple[str, str], str], seconds: float | None
) -> None:
    with metadata(answers) as base:
        assert notice_of(service, ManualClock(NOW), base)() == seconds


def test_a_command_that_is_not_there_or_fails_has_not_done_it() -> None:
    assert ran(["true"], timeout_s=10)
    assert not ran(["false"], timeout_s=10)
    assert not ran(["/no/such/program"], timeout_s=10)
    assert not ran(["sleep", "10"], timeout_s=0.01)


def test_where_nothing_answers_there_is_no_notice() -> None:
    assert notice_of("aws", ManualClock(NOW), "http://127.0.0.1:1")() is None
