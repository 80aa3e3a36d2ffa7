"""What a home remembers of the cluster that serves it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlplat._ray import record


def test_the_token_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    token = record.token_file(tmp_path)
    before = token.read_text()
    assert len(before) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert record.token_file(tmp_path).read_text() == before


def cluster(**changes: Any) -> record.Cluster:
    pid = psutil.Process().pid
    return record.Cluster(**({"address": "a:1", "pid": pid, "started": record.started(pid)} | changes))


def test_the_record_of_a_living_owner_is_read(tmp_path: Path) -> None:
    record.write_cluster(tmp_path, cluster(shared=True))
    assert record.read_cluster(tmp_path) == cluster(shared=True)
    record.forget_cluster(tmp_path, cluster().pid)
    assert record.read_cluster(tmp_path) is None


@pytest.mark.parametrize("stale", [cluster(started=5.0), cluster(pid=2**22 + 1)])
def test_the_record_of_an_owner_that_is_gone_is_ignored(tmp_path: Path, stale: record.Cluster) -> None:
    record.write_cluster(tmp_path, stale)
    assert record.read_cluster(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"address": "a:1"}', json.dumps({"x": 1})])
def test_a_torn_record_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "address.json").write_text(content)
    assert record.read_cluster(tmp_path) is None
