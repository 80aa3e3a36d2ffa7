"""Processes that are killed, and processes that write at the same time: no event is lost, doubled, or half there."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from mlplat.features.tables import EventTable
from tests.features.shop import BATCH, recent, sale, sales
from tests.features.support import after, open_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def writer(home: Path, turn: int, kill_at: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.features.faulty_writer", str(home), str(turn), str(kill_at), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    store = open_store(tmp_path)
    store.push(sales, sale("first"))
    store.apply(recent)
    store.close()
    return tmp_path


def promised(output: str) -> set[str]:
    return {line for line in output.split("\n")[:-1] if line}  # an unfinished line is no promise


def check(home: Path, lines: set[str]) -> None:
    """Each promise is kept, everything is there once, batches whole; online is what offline is."""
    store = open_store(home)
    store.apply(recent)
    store.flush()
    ids = EventTable(home / "tables" / "sources" / "sales").read(["sale_id"])["sale_id"].to_list()
    times = Counter(ids)
    assert [name for name, n in times.items() if n > 1] == []
    assert {name for name in lines if name.startswith("push") and not times[name]} == set()
    batches = Counter(name.split("/")[0] for name in ids if "/" in name)
    assert set(batches.values()) <= {BATCH}
    assert {name for name in lines if name.startswith("batch")} <= batches.keys()
    at = after(80_001)
    joined = store.join(pl.DataFrame({"shop": ["one"], "at": [at]}), [recent], time="at")
    online = store.online(recent, {"shop": ["one"]}, at=at).to_arrow().to_pylist()[0]
    assert online["sold_1d"] == joined["recent.sold_1d"][0] == len(ids)
    assert online["total_1d"] == joined["recent.total_1d"][0]
    store.close()


def test_a_process_killed_between_any_two_steps_loses_and_doubles_nothing(home: Path) -> None:
    lines: set[str] = set()
    # After the log and before the online store; a flush that is in the table and in the log; before and after a batch;
    # after a compaction.
    for turn, kill_at in enumerate((2, 14, 17, 18, 30)):
        process = writer(home, turn, kill_at, 9)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == -9, (turn, output)
        lines |= promised(output)
    check(home, lines)
    assert any(name.startswith("batch") for name in lines)


def test_a_process_killed_at_any_moment_loses_and_doubles_nothing(home: Path) -> None:
    process = writer(home, 1, 0, 1000)
    assert process.stdout is not None
    seen = "".join(process.stdout.readline() for _ in range(9))
    process.kill()
    rest, _ = process.communicate(timeout=60)
    check(home, promised(seen + rest))


def test_two_processes_write_to_one_home_at_the_same_time(home: Path) -> None:
    processes = [writer(home, turn, 0, 9) for turn in (1, 2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    lines = set().union(*map(promised, outputs))
    assert len(lines) == 2 * (9 + 3)
    check(home, lines)
