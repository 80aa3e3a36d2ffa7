from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlplat.config import environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def variables() -> dict[str, str]:
    kept = {name: value for name, value in environment().variables.items() if not name.startswith("MLPLAT_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def mlplat(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlplat.cli.main", *words]
    return subprocess.run(command, cwd=cwd, env=variables(), capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text(
        "import os, sys; print('args', sys.argv[1:], os.environ['MLPLAT_HOME']); sys.exit(int(sys.argv[1]))"
    )
    return path


def test_run_passes_arguments_home_and_exit_code_on(script: Path) -> None:
    ended = mlplat("run", "--home", "here", "job.py", "7", "--json", "-x", cwd=script.parent)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "args ['7', '--json', '-x'] here\n", "")


def test_run_sums_up_in_one_line_of_json(script: Path) -> None:
    ended = mlplat("run", "--json", str(script), "0", cwd=script.parent)
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary.pop("seconds") >= 0
    assert summary == {"script": str(script), "home": str(script.parent / ".mlplat"), "exit_code": 0}


def test_run_takes_a_module(tmp_path: Path) -> None:
    assert mlplat("run", "json.tool", "--help", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "absent.py"), "mlplat: absent.py: there is no such file"),
        (("run", "--home", "s3://team/home", "json.tool"), "mlplat: home 's3://team/home' is remote"),
        (("status", "--home", "absent"), "mlplat: There is no home at"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    ended = mlplat(*words, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(message)
    assert len(ended.stderr.splitlines()) == 1
    assert "\x1b" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_explained(tmp_path: Path) -> None:
    ended = mlplat("status", "--jsn", cwd=tmp_path)
    assert ended.returncode == 2
    assert "--json" in ended.stderr


def test_a_signal_to_the_command_reaches_the_script(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import signal, sys, threading\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        "print('ready', flush=True)\n"
        "threading.Event().wait()\n"
    )
    command = [sys.executable, "-m", "mlplat.cli.main", "run", "job.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=variables(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 9


@pytest.mark.slow
def test_status_of_a_new_home_is_quick_and_starts_nothing(tmp_path: Path) -> None:
    started = time.perf_counter()
    code = f"import mlplat; mlplat.connect({str(tmp_path / 'home')!r}).close()"
    subprocess.run([sys.executable, "-c", code], env=variables(), check=True)
    plain = mlplat("status", "--home", "home", cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert f"home  {tmp_path / 'home'}" in plain.stdout
    status = json.loads(mlplat("status", "--home", "home", "--json", cwd=tmp_path).stdout)
    assert (status["models"], status["endpoints"], status["cluster"]) == ([], [], None)
    assert time.perf_counter() - started < 60
