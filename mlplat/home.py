"""The home: the folder under which all state lives. It carries the version of its format."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from mlplat.errors import Corrupt, InvalidInput, Refused

FORMAT = 1


def open_home(path: Path) -> Path:
    """The folder, made if it is not there. Refused if it was written by a newer mlplat, or is something else."""
    if path.exists() and not path.is_dir():
        raise InvalidInput(f"home {str(path)!r} is a file; give a folder")
    stamp = path / "home.json"
    if not stamp.exists():
        if path.exists() and any(path.iterdir()):
            raise InvalidInput(
                f"home {str(path)!r} is a folder with other things in it; give an empty one or a new name"
            )
        path.mkdir(parents=True, exist_ok=True)
        _write(stamp)
    found = home_format(path)
    if found > FORMAT:
        raise Refused(
            f"home {str(path)!r} has format {found}, and this mlplat knows formats up to {FORMAT}: upgrade mlplat "
            "(pip install -U mlplat)"
        )
    return path


def home_format(path: Path) -> int:
    """The format that the home says it has."""
    try:
        return int(json.loads((path / "home.json").read_text())["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"{path / 'home.json'} is not what was written ({error!r}): restore it, or begin a new home"
        ) from None


def _write(stamp: Path) -> None:
    """Two processes may make one home at the same time: both write the same, and each write is whole."""
    with tempfile.NamedTemporaryFile("w", dir=stamp.parent, prefix=".home-", delete=False) as file:
        json.dump({"format": FORMAT}, file)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(stamp)
