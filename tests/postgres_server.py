"""A real PostgreSQL for the tests: made in a folder of its own, on a free port, and ended by the fixture."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

USER = "ann"
PASSWORD = "hunter2/%:?#é"  # each of its signs means something in a URL

# Nothing is kept on the disk, or in the memory of the system, longer than the server's folder.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "dynamic_shared_memory_type": "mmap",
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "lc_messages": "C",
}


class PostgresServer:
    """`url()` has the password; `kill` and `stop` are for tests of that, `start` brings it back with its data."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._folder = folder
        # PostgreSQL refuses to run as root.
        self._user = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "nobody")
        password = folder / "password"
        password.write_text(PASSWORD)
        options = f"-D data -U {USER} --pwfile=password --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync"
        made = [program("initdb"), *options.split()]
        subprocess.run(made, cwd=folder, check=True, stdout=subprocess.DEVNULL, **self._user)
        self.start()

    def url(self, database: str = "postgres", *, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, *, like: str = "template1") -> str:
        """A new database, and its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{like}"')
        return self.url(database)

    def start(self) -> None:
        options = [option for name, value in _SETTINGS.items() for option in ("-c", f"{name}={value}")]
        self.process = subprocess.Popen(
            [program("postgres"), "-D", "data", "-p", str(self.port), *options],
            cwd=self._folder,
            stderr=subprocess.PIPE,
            text=True,
            **self._user,
        )
        assert self.process.stderr is not None
        seen = []
        for said in self.process.stderr:
            seen.append(said)
            if "ready to accept connections" in said:
                return
        raise AssertionError(f"postgres ended: {''.join(seen)}")

    def stop(self) -> None:
        """It ends at once, as after a failure, and leaves nothing in the memory of the system."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.communicate()

    def kill(self) -> None:
        """`kill -9`. What it leaves in the memory of the system goes with the next `start`."""
        self.process.kill()
        self.process.communicate()  # its children end when they miss it, and only then may another take over the folder


def program(name: str) -> str:
    """Debian keeps them out of the PATH."""
    found = [Path(path) for path in [shutil.which(name)] if path]
    found += sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]), reverse=True
    )
    return str(found[0]) if found else ""


def require() -> None:
    """Skip where there is no server; in CI fail."""
    if not program("postgres"):
        message = "postgres is not here: apt-get install postgresql"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)


@contextmanager
def serving() -> Iterator[PostgresServer]:
    require()
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # pytest's belong to its user alone
        server = PostgresServer(Path(folder))
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.stop()
