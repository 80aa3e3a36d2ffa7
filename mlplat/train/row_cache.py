"""Sets of encoded rows on a node's disk: a folder each, which appears whole, is found again for as long as its files are what
was written, and goes when there are too many, or they take too much of the disk. What a kill cut off goes a day later."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zlib
from contextlib import suppress
from pathlib import Path

from mlplat.clock import US_PER_S
from mlplat.disk import write_atomically
from mlplat.errors import Unavailable

KEPT, SHARE = 4, 0.2
"""So many sets stay, those that were used last; and no more of them than take this share of the disk."""
CHECK_S = 24 * 3600
"""How old the last look at every byte may be. At the sizes there is a look each time."""
_SEAL, _CHECKED = "seal.json", "checked"
_BLOCK = 1 << 24


def is_whole(folder: Path, now_us: int) -> bool:
    """Whether it is there, and its files are those that were sealed."""
    try:
        said = json.loads((folder / _SEAL).read_text())
        if any((folder / name).stat().st_size != size for name, (size, _) in said.items()):
            return False
        if now_us - int((folder / _CHECKED).read_text()) < CHECK_S * US_PER_S:
            return True
        if any(_sum(folder / name) != crc for name, (_, crc) in said.items()):
            return False
        write_atomically(folder / _CHECKED, str(now_us).encode())
    except (OSError, ValueError):  # it is none, or was removed just now
        return False
    return True


def was_sealed(folder: Path) -> bool:
    return (folder / _SEAL).exists()


def seal(folder: Path, now_us: int) -> None:
    """All of it is written."""
    files = sorted(folder.rglob("*.npy"))
    said = {str(file.relative_to(folder)): (file.stat().st_size, _sum(file)) for file in files}
    write_atomically(folder / _SEAL, json.dumps(said).encode())
    write_atomically(folder / _CHECKED, str(now_us).encode())


def place(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():  # else another run was faster, or another node that has the same disk
            raise
        shutil.rmtree(unfinished)


def use(folder: Path) -> None:
    os.utime(folder)


def remove(folder: Path) -> None:
    """Another run may read what is removed here: its maps stay. Or it removes the same."""
    with suppress(FileNotFoundError):
        gone = folder.rename(folder.parent / f".gone-{folder.name}-{secrets.token_hex(6)}")  # no half of it is found
        shutil.rmtree(gone, ignore_errors=True)


def prune(cache: Path, now_us: int) -> None:
    """Until there are few enough. The set that was used last stays, however large."""
    left = SHARE * shutil.disk_usage(cache).total
    for path in cache.glob(".*"):
        if _used_s(path) < now_us / US_PER_S - CHECK_S:  # nobody writes it any more
            shutil.rmtree(path, ignore_errors=True)
    for number, folder in enumerate(_sets(cache)):
        left -= _size(folder)
        if number and (number >= KEPT or left < 0):
            remove(folder)


def require_room(cache: Path, wanted_bytes: int) -> None:
    """Sets make room, those first that were used longest ago. `Unavailable` if the disk has not so much left without them
    either: then they stay."""
    cache.mkdir(parents=True, exist_ok=True)
    free, sets = shutil.disk_usage(cache).free, _sets(cache)
    if free < wanted_bytes <= free + sum(map(_size, sets)):
        while sets and free < wanted_bytes:
            remove(sets.pop())
            free = shutil.disk_usage(cache).free
    if free < wanted_bytes:
        raise Unavailable(
            f"the encoded rows take {wanted_bytes / 1e9:,.1f} GB, and {cache} has {free / 1e9:,.1f} GB left: make room there, "
            "or name a folder on a larger disk of each machine, with connect(scratch=...) or MLPLAT_SCRATCH"
        )


def _sets(cache: Path) -> list[Path]:
    """Whole ones, that which was used last first."""
    return sorted((path for path in cache.iterdir() if not path.name.startswith(".")), key=_used_s, reverse=True)


def _sum(file: Path) -> int:
    found = 0
    with file.open("rb", buffering=0) as raw:
        while block := raw.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.npy") if file.exists())


def _used_s(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
