"""The folders of commands whose own copy does not last: kept in the home, once for each content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

_LEFT_OUT = frozenset({".git", "__pycache__"})


def keep(folder: Path, under: Path) -> Path:
    """A copy of the folder, named by its content. What is there already is not copied again."""
    kept = under / digest(folder)
    if not kept.exists():
        under.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=under))
        try:
            shutil.copytree(folder, draft / "code", ignore=shutil.ignore_patterns(*_LEFT_OUT))
            try:
                os.rename(draft / "code", kept)
            except OSError:
                if not kept.exists():  # else another kept the same just now
                    raise
        finally:
            shutil.rmtree(draft)
    return kept


def digest(folder: Path) -> str:
    """Of names, of what may be executed, and of bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or _LEFT_OUT & set(name.parts):
            continue
        found.update(f"{name}\0{path.stat().st_mode & 0o111}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
    return found.hexdigest()[:20]
