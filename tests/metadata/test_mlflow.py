"""What only the MLflow store can get wrong: other processes, other writers, broken files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mlplat.errors import Unavailable
from mlplat.metadata.mlflow import MlflowMetadata

pytestmark = pytest.mark.slow

_OPEN_AND_WRITE = """
import sys
from pathlib import Path
from mlplat.decision import Hold
from mlplat.metadata.mlflow import MlflowMetadata
from mlplat.metadata.port import LedgerEntry

home = Path(sys.argv[1])
store = MlflowMetadata(f"sqlite:///{home}/metadata.db", home / "artifacts")
run = store.start_run("late", params={"who": sys.argv[2]}, tags={})
for i in range(3):
    store.log_metrics(run, {"auc": 0.5}, step=i)
    store.register("late", digest=f"d{i}", path="/m", run_id=run)
    store.record(LedgerEntry(at_us=i, policy="p", subject="late", decision=Hold(reason="r"), actor=sys.argv[2]))
store.close()
"""


def test_two_processes_make_and_share_one_new_database_in_silence(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OPEN_AND_WRITE, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, who], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for who in ("ann", "bob")
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said == ["", ""]
    store = MlflowMetadata(f"sqlite:///{tmp_path}/metadata.db", tmp_path / "artifacts")
    assert sorted(version.digest for version in store.versions("late")) == [f"d{i}" for i in range(3)]
    assert sorted(entry.actor for entry in store.decisions("late")) == ["ann"] * 3 + ["bob"] * 3
    store.close()


def test_the_database_keeps_a_write_ahead_log_and_is_whole_after_close(tmp_path: Path) -> None:
    store = MlflowMetadata(f"sqlite:///{tmp_path}/metadata.db", tmp_path / "artifacts")
    store.register("late", digest="d", path="/m", run_id="r")
    store.close()
    assert not (tmp_path / "metadata.db-wal").exists()
    with sqlite3.connect(tmp_path / "metadata.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_file_that_is_no_database_is_unavailable_by_name(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(Unavailable, match="database"):
        MlflowMetadata(f"sqlite:///{tmp_path}/metadata.db", tmp_path / "artifacts")


def test_importing_the_port_loads_neither_mlflow_nor_sqlalchemy() -> None:
    code = (
        "import sys, mlplat.metadata.memory, mlplat.metadata.mlflow\n"
        "assert not {'mlflow', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
