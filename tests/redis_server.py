"""A real Redis for the tests: started on a free port with a folder of its own, and ended by the fixture."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

PASSWORD = "hunter2"


class RedisServer:
    """`url` has the password; `process` is the server, to be killed by tests of that."""

    def __init__(self, folder: Path, *, cluster: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._folder = folder
        self._cluster = cluster
        self.url = f"redis{'+cluster' if cluster else ''}://:{PASSWORD}@127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Again after `process` was killed: without its data."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        options += ["--requirepass", PASSWORD, "--cluster-enabled", "yes" if self._cluster else "no"]
        if self._cluster:
            options += ["--cluster-port", str(self.port + 10_000 if self.port < 50_000 else self.port - 10_000)]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE, text=True)
        self._wait_for("Ready to accept connections")
        if self._cluster:
            with redis.Redis(port=self.port, password=PASSWORD) as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            self._wait_for("Cluster state changed: ok")

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        seen = []
        for said in self.process.stdout:
            seen.append(said)
            if line in said:
                return
        raise AssertionError(f"redis-server ended: {''.join(seen)}")


def require() -> None:
    """Skip where there is no server; in CI fail."""
    if shutil.which("redis-server") is None:
        message = "redis-server is not here: apt-get install redis-server"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)


@contextmanager
def serving(folder: Path, *, cluster: bool = False) -> Iterator[RedisServer]:
    require()
    server = RedisServer(folder, cluster=cluster)
    try:
        yield server
    finally:
        server.stop()
