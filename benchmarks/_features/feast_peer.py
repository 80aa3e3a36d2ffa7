"""The peer Feast, in an environment of its own: it needs pandas below 3."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._figures import PeerAbsent, Scene

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".bench" / "feast"
PINS = HERE / "feast.txt"


class Peer:
    """A process of Feast that waits for questions."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    @contextmanager
    def start(cls, scene: Scene, *, offline: str = "duckdb", online: Mapping[str, Any] | None = None) -> Iterator[Peer]:
        """Raises `PeerAbsent` where the environment cannot be made."""
        if scene.quick:
            raise PeerAbsent("--quick builds no peer")
        python = _python(scene)
        folder = scene.folder / "feast"
        folder.mkdir()
        log = folder / "log"
        store = online or {"type": "sqlite", "path": str(folder / "online.db")}
        settings = json.dumps({"folder": str(folder), "offline": offline, "online": store})
        with (
            log.open("w") as err,
            subprocess.Popen(
                [python, HERE / "feast_worker.py", settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                env={"FEAST_USAGE": "False", "PATH": ""},
            ) as process,
        ):
            try:
                yield cls(process, log)
            finally:
                process.kill()

    def ask(self, call: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerAbsent(f"Feast ended: {self._log.read_text()[-1000:]}") from None
        line = self._process.stdout.readline()
        if not line:
            raise PeerAbsent(f"Feast ended: {self._log.read_text()[-1000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerAbsent(f"Feast failed: {answer['error'][-1000:]}")
        return answer["result"]

    def seconds(self, call: str, **arguments: Any) -> float:
        """What the call took by Feast's own clock."""
        return float(self.ask(call, **arguments))


def _python(scene: Scene) -> Path:
    """The environment, made when it is not there or the pins have changed."""
    python, mark = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "pins.txt"
    if mark.exists() and mark.read_text() == PINS.read_text():
        return python
    scene.say("installing Feast into an environment of its own ...")
    for command in (
        [sys.executable, "-m", "venv", "--clear", ENVIRONMENT],
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", PINS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerAbsent(f"Feast could not be installed: {done.stderr[-500:]}")
    mark.write_text(PINS.read_text())
    return python
