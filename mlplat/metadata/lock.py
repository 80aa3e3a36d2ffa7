"""Locks between processes: of one machine, or of all that use a PostgreSQL."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine

_KEY = int.from_bytes(b"mlplat", "big")
_WAIT = "60s"  # longer than one needs for the tables of a new database


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold `path` alone, waiting for others; the system frees it when the process dies. Threads exclude each other
    too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def exclusive_in(engine: Engine) -> Iterator[None]:
    """Hold the database alone among those that ask for it; the server frees it when the connection ends. SQLAlchemy's
    error after a minute."""
    from sqlalchemy import text

    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT}'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _KEY})
        yield
