"""Running a user's script as a process of its own, with the signals and the exit code passed on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mlplat.errors import InvalidInput


def command(script: str, arguments: Sequence[str]) -> list[str]:
    """How Python runs a file (`train.py`) or a module (`examples.flights`). `InvalidInput` if it can be neither."""
    if Path(script).is_file():
        return [sys.executable, script, *arguments]
    if script.endswith(".py") or not all(part.isidentifier() for part in script.split(".")):
        raise InvalidInput(f"{script}: there is no such file, and it is not the name of a module.")
    return [sys.executable, "-m", script, *arguments]


def run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run until it ends and return its exit code, as a shell would give it."""
    with subprocess.Popen(words, env=dict(environment)) as process:
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = _wait(process)
        finally:
            signal.signal(signal.SIGTERM, previous)
    return code if code >= 0 else 128 - code


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C reaches the script too: wait for it to clean up."""
    while True:
        with suppress(KeyboardInterrupt):
            return process.wait()
