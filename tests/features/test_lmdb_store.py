"""The embedded store and the push log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlplat.errors import Unavailable
from mlplat.features.lmdb_store import LmdbStore, PushLog


def test_an_update_is_all_or_nothing(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "online")
    store.update([b"a", b"b"], lambda blobs: [b"1", b"2"])

    def fail(blobs: list[bytes | None]) -> list[bytes]:
        assert blobs == [b"1", None]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.update([b"a", b"c"], fail)
    assert store.get([b"a", b"b", b"c"]) == [b"1", b"2", None]
    store.close()


def test_users_of_one_path_share_it_until_the_last_closes(tmp_path: Path) -> None:
    one, other = LmdbStore(tmp_path / "online"), LmdbStore(tmp_path / "." / "online")
    one.update([b"a"], lambda _: [b"1"])
    one.close()
    one.close()
    assert other.get([b"a"]) == [b"1"]
    with pytest.raises(Unavailable, match="is closed; open the home again"):
        one.get([b"a"])
    other.close()
    again = LmdbStore(tmp_path / "online")
    assert again.get([b"a"]) == [b"1"]
    again.close()


def test_a_store_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "online").write_text("a file")
    store = LmdbStore(tmp_path / "online")
    with pytest.raises(Unavailable, match="cannot be opened"):
        store.get([b"a"])
    store.close()


def test_a_fork_opens_an_environment_of_its_own(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "online")
    store.update([b"a"], lambda _: [b"1"])
    child = os.fork()
    if child == 0:
        try:
            store.update([b"b"], lambda _: [store.get([b"a"])[0] or b"?"])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get([b"a", b"b"]) == [b"1", b"1"]
    store.close()


def test_the_log_keeps_order_and_never_uses_a_number_twice(tmp_path: Path) -> None:
    log = PushLog(tmp_path / "push")
    assert (log.last(), log.read(10)) == (0, [])
    log.append([b"a", b"b"])
    log.append([b"c"])
    assert log.read(2) == [(1, b"a"), (2, b"b")]
    log.remove([1, 2, 3, 99])
    assert (log.last(), log.read(10)) == (3, [])
    log.close()
    log = PushLog(tmp_path / "push")
    log.append([b"d"])
    assert log.read(10) == [(4, b"d")]
    log.close()
