"""The home: the folder under which all state lives. It carries the version of its format, and an id of its own.

Format 2: the online store's blobs know `created`; the home has an id.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from mlplat.errors import Corrupt, InvalidInput, Refused

FORMAT = 2


def open_home(path: Path) -> Path:
    """The folder, made if it is not there, and brought to the present format. Refused if it was written by a newer mlplat,
    or is something else."""
    if path.exists() and not path.is_dir():
        raise InvalidInput(f"home {str(path)!r} is a file; give a folder")
    stamp = path / "home.json"
    if not stamp.exists():
        there = os.listdir(path) if path.exists() else []
        # Another process may have made the home since.
        if stamp.name not in there and not all(name.startswith(_BEGUN) for name in there):
            raise InvalidInput(
                f"home {str(path)!r} is a folder with other things in it; give an empty one or a new name"
            )
        path.mkdir(parents=True, exist_ok=True)
        _create(stamp)
    found = home_format(path)
    if found > FORMAT:
        raise Refused(
            f"home {str(path)!r} has format {found}, and this mlplat knows formats up to {FORMAT}: upgrade mlplat "
            "(pip install -U mlplat)"
        )
    if found < FORMAT:
        _migrate(path)
    return path


def home_format(path: Path) -> int:
    """The format that the home says it has."""
    return int(_read(path, "format"))


def home_id(path: Path) -> str:
    """What tells this home from others that share a server with it."""
    return str(_read(path, "id"))


def _read(path: Path, name: str) -> Any:
    try:
        return json.loads((path / "home.json").read_text())[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"{path / 'home.json'} is not what was written ({error!r}): restore it, or begin a new home"
        ) from None


def _migrate(path: Path) -> None:
    """From format 1: the online store is dropped, and made again of the tables when the feature store opens."""
    with (path / "home.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if home_format(path) < FORMAT:
            if (path / "online").exists():
                shutil.rmtree(path / "online")
            _stamp(path / "home.json").replace(path / "home.json")


def _create(stamp: Path) -> None:
    """Two processes may make one home at the same time: the first one's stamp stays."""
    made = _stamp(stamp)
    try:
        os.link(made, stamp)
    except FileExistsError:
        pass
    finally:
        made.unlink()


def _stamp(stamp: Path) -> Path:
    """A whole stamp, under a name of its own."""
    with tempfile.NamedTemporaryFile("w", dir=stamp.parent, prefix=_BEGUN, delete=False) as file:
        json.dump({"format": FORMAT, "id": uuid4().hex[:16]}, file)
        file.flush()
        os.fsync(file.fileno())
    return Path(file.name)


_BEGUN = ".home-"
