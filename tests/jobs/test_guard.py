"""The guard: the command's own end is passed on, and nothing outlives the process that asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlplat.jobs import guard

pytestmark = pytest.mark.slow

STARTS = "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True);"


def guarded(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-S", guard.__file__, json.dumps(arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(timeout=10)
    except psutil.NoSuchProcess:
        return True
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("code", "said"), [("pass", 0), ("raise SystemExit(75)", 75), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_how_a_command_ends_is_passed_on(code: str, said: int) -> None:
    with guarded(sys.executable, "-c", code) as process:
        assert guard.code_of(process.wait(timeout=30)) == said


def test_a_command_is_asked_by_sigterm_and_may_take_its_time(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys\n"
        f"def saved(*_): pathlib.Path({str(tmp_path / 'saved')!r}).touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, saved); print('ready', flush=True); signal.pause()"
    )
    with guarded(sys.executable, "-c", code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert guard.code_of(process.wait(timeout=30)) == 75
    assert (tmp_path / "saved").exists()


def test_nothing_outlives_who_asked_for_it() -> None:
    with guarded(sys.executable, "-c", STARTS + "child.wait()") as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()  # as the kernel does when the process that holds the other end is killed
        assert guard.code_of(process.wait(timeout=30)) == -9
        assert gone(grandchild)


def test_what_a_command_leaves_behind_is_ended() -> None:
    with guarded(sys.executable, "-c", STARTS) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        assert process.wait(timeout=30) == 0
        assert gone(left)


def test_an_early_request_to_stop_is_not_lost() -> None:
    with guarded("sleep", "60") as process:
        os.kill(process.pid, signal.SIGTERM)
        code = process.wait(timeout=30)
    assert code in {-15, 143}
