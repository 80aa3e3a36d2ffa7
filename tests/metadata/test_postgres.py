"""What only a server can get wrong: it is away, it is shared by machines, and it has a password."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from mlplat.decision import Hold
from mlplat.errors import InvalidInput, MlplatError, Unavailable
from mlplat.metadata.mlflow import MlflowMetadata
from mlplat.metadata.port import Goal, LedgerEntry
from mlplat.metadata.postgres import driver_url
from tests.postgres_server import PASSWORD, PostgresServer, serving

pytestmark = pytest.mark.slow

SECONDS = 10
ENTRY = LedgerEntry(at_us=1, policy="p", subject="late", decision=Hold(reason="r"), actor="ann")

_OPEN_AND_WRITE = """
import sys
from pathlib import Path
from mlplat.decision import Hold
from mlplat.metadata.mlflow import MlflowMetadata
from mlplat.metadata.port import Goal, LedgerEntry

url, folder, who = sys.argv[1:]
store = MlflowMetadata(url, Path(folder))
print("open", flush=True)
sys.stdin.readline()
run = store.start_run("late", params={"who": who}, tags={})
for i in range(10):
    store.register("late", digest=f"d{i}", path="/m", run_id=run)
    store.set_goal("late", Goal(metric="auc", direction="max"))
    store.set_alias("late", "candidate", 1)
    store.record(LedgerEntry(at_us=i, policy="p", subject="late", decision=Hold(reason="r"), actor=who))
store.close()
"""


@pytest.fixture
def mine() -> Iterator[PostgresServer]:
    """One that may be killed."""
    with serving() as server:
        yield server


@contextmanager
def opened(url: str, folder: Path) -> Iterator[MlflowMetadata]:
    store = MlflowMetadata(url, folder)
    try:
        yield store
    finally:
        store.close()


def refusal(call: Callable[[], object]) -> str:
    """What a call raises within seconds, with all that it came of."""
    began = time.monotonic()
    with pytest.raises(MlplatError) as raised:
        call()
    assert time.monotonic() - began < SECONDS
    assert hidden("".join(traceback.format_exception(raised.value)))
    return f"{type(raised.value).__name__}: {raised.value}"


def hidden(text: str) -> bool:
    """Neither the password nor a part of it, as it is or as a URL has it."""
    return not any(part in text for part in ("hunter2", PASSWORD[-5:], "%25%3A"))


def test_two_machines_make_and_share_one_new_database_in_silence(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.create(uuid4().hex)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN_AND_WRITE, url, str(tmp_path / who), who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for who in ("ann", "bob")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert ([process.returncode for process in processes], said) == ([0, 0], ["", ""])
    with opened(url, tmp_path) as store:
        assert [version.version for version in store.versions("late")] == list(range(1, 11))
        assert sorted(version.digest for version in store.versions("late")) == sorted(f"d{i}" for i in range(10))
        assert sorted(entry.actor for entry in store.decisions("late")) == ["ann"] * 10 + ["bob"] * 10
        assert store.goal("late") == Goal(metric="auc", direction="max")


def test_what_one_at_a_time_must_do_is_guarded_by_the_database(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.create(uuid4().hex)
    with opened(url, tmp_path / "ann") as ann, opened(url, tmp_path / "bob") as bob, ThreadPoolExecutor(8) as pool:
        calls: list[Callable[[MlflowMetadata, str], object]] = [
            lambda store, name: store.set_goal(name, Goal(metric="auc", direction="max")),
            lambda store, name: store.start_run(name, params={}, tags={}),
            lambda store, name: store.register(name, digest="d", path="/m", run_id="r"),
            lambda store, name: store.set_alias(name, "gold", 1),
        ]
        for call in calls:  # eight at once do the same
            list(pool.map(lambda i, call=call: call((ann, bob)[i % 2], f"late{i // 8}"), range(40)))
        assert [len(ann.versions(f"late{turn}")) for turn in range(5)] == [1] * 5


@pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.kill])
def test_a_server_that_was_away_is_unavailable_and_then_the_same_store_goes_on(
    mine: PostgresServer, end: Callable[[PostgresServer], None], tmp_path: Path
) -> None:
    with opened(mine.create("runs"), tmp_path) as store:
        run_id = store.start_run("late", params={}, tags={})
        calls: list[Callable[[], object]] = [
            lambda: store.log_metrics(run_id, {"auc": 0.5}),
            lambda: store.register("late", digest="d", path="/m", run_id=run_id),
            lambda: store.start_run("new", params={}, tags={}),
            lambda: store.set_goal("late", Goal(metric="auc", direction="max")),
            lambda: store.record(ENTRY),
            store.names,
            store.decisions,
        ]
        for call in calls:
            call()
        end(mine)
        for call in calls:
            assert refusal(call).startswith("Unavailable: The metadata database is not to be used now: ")
        assert "refused" in refusal(lambda: MlflowMetadata(mine.url("runs"), tmp_path))
        mine.start()
        for call in calls:
            call()
        assert len(store.versions("late")) == 1
        assert len(store.decisions()) == 2


def test_a_server_that_does_not_say_a_word_is_unavailable(mine: PostgresServer, tmp_path: Path) -> None:
    mine.process.send_signal(signal.SIGSTOP)
    try:
        assert "timeout" in refusal(lambda: MlflowMetadata(mine.url() + "?connect_timeout=2", tmp_path))
    finally:
        mine.kill()
        mine.start()


def test_what_the_server_refuses_is_said_in_its_words(postgres_server: PostgresServer, tmp_path: Path) -> None:
    def said(url: str) -> str:
        return refusal(lambda: MlflowMetadata(url, tmp_path))

    assert 'password authentication failed for user "ann"' in said(postgres_server.url(password=PASSWORD[:-1]))
    assert 'database "nobodys" does not exist' in said(postgres_server.url("nobodys"))
    assert 'invalid connection option "nonsense"' in said(postgres_server.url() + "?nonsense=1")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2@hunter2@host/db",
        "postgresql://ann:hunter2",
        "postgresql://ann:x@host:hunter2/db",
    ],
)
def test_a_url_that_would_be_misread_is_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    assert refusal(lambda: MlflowMetadata(url, tmp_path)).startswith(
        "InvalidInput: metadata: the URL must be postgresql:"
    )


def test_the_url_keeps_what_it_says_and_is_made_once() -> None:
    url = driver_url("postgresql://ann:a%2Fb@host/db?connect_timeout=60&sslmode=require")
    assert url.startswith("postgresql+psycopg://ann:a%2Fb@host/db?")
    assert "connect_timeout=60" in url
    assert "sslmode=require" in url
    assert driver_url(url) == url
    assert driver_url("sqlite:///metadata.db") == "sqlite:///metadata.db"


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidInput, match=r"pip install 'mlplat\[postgresql\]'"):
        MlflowMetadata("postgresql://host/db", tmp_path)


def test_a_lock_that_is_never_freed_is_unavailable_after_a_while(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlplat.metadata import lock

    url = postgres_server.create(uuid4().hex)
    with opened(url, tmp_path) as store, opened(url, tmp_path) as other:
        monkeypatch.setattr(lock, "_WAIT", "10ms")
        with store._alone():
            assert "lock timeout" in refusal(lambda: other.register("late", digest="d", path="/m", run_id="r"))
        assert other.register("late", digest="d", path="/m", run_id="r").version == 1


def test_the_password_is_not_logged(
    postgres_server: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("mlflow", "sqlalchemy", "alembic", "psycopg", None):
        caplog.set_level(logging.DEBUG, logger=name)
    with opened(postgres_server.create(uuid4().hex), tmp_path) as store:
        run_id = store.start_run("late", params={"lr": 0.1}, tags={})
        store.register("late", digest="d", path="/m", run_id=run_id)
        assert hidden(repr(store) + repr(vars(store)) + repr(store.run(run_id)) + repr(store.versions("late")))
    with pytest.raises(Unavailable):
        MlflowMetadata(postgres_server.url("nobodys"), tmp_path)
    assert caplog.records
    assert hidden(caplog.text)
