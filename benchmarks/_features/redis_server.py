"""The real Redis, on a free port, with nothing kept on disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks._figures import PeerAbsent, Scene


@contextmanager
def serving(scene: Scene) -> Iterator[int]:
    """Its port. Raises `PeerAbsent` where there is none, or not the library to speak to it."""
    if shutil.which("redis-server") is None:
        raise PeerAbsent("redis-server is not installed: apt-get install redis-server")
    try:
        import redis  # noqa: F401
    except ModuleNotFoundError:
        raise PeerAbsent("the redis library is not installed: pip install 'mlplat[redis]'") from None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(scene.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            _wait(process)
            yield port
        finally:
            process.kill()


def _wait(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if "Ready to accept connections" in line:
            return
    raise PeerAbsent(f"redis-server ended: {''.join(said)[-300:]}")
