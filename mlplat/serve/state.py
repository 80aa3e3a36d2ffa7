"""What is served, as the home remembers it: it outlives the cluster, and a replica that restarts reads its share
from here.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mlplat.errors import Corrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name: which version answers, where its artifact is, at which URL, in which life of which cluster."""

    name: str
    version: int
    digest: str
    path: str
    url: str
    cluster: str
    epoch: int = 0


def read(home: Path) -> dict[str, Entry]:
    """All entries by name. `Corrupt` if the file is not what was written."""
    try:
        text = _path(home).read_text()
    except FileNotFoundError:
        return {}
    try:
        return {name: Entry(**entry) for name, entry in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise Corrupt(f"{_path(home)} is not what was written ({error}). Remove it and serve again.") from None


def put(home: Path, entry: Entry) -> Entry:
    """Record it with the next epoch of its name, and return it so."""
    with _changing(home) as entries:
        before = entries.get(entry.name)
        values = asdict(entry) | {"epoch": 1 if before is None else before.epoch + 1}
        entries[entry.name] = Entry(**values)
        return entries[entry.name]


def restore(home: Path, name: str, before: Entry | None) -> None:
    """Undo a `put` that could not be carried out."""
    with _changing(home) as entries:
        entries.pop(name, None)
        if before is not None:
            entries[name] = before


def remove(home: Path, name: str) -> None:
    restore(home, name, None)


@contextmanager
def _changing(home: Path) -> Iterator[dict[str, Entry]]:
    """Read, change, write atomically; one process at a time."""
    home.mkdir(parents=True, exist_ok=True)
    with _path(home).with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = read(home)
        yield entries
        _write(home, entries)


def _write(home: Path, entries: Mapping[str, Entry]) -> None:
    draft = _path(home).with_suffix(".draft")
    draft.write_text(json.dumps({name: asdict(entry) for name, entry in entries.items()}, indent=1))
    draft.replace(_path(home))


def _path(home: Path) -> Path:
    return home / "endpoints.json"
