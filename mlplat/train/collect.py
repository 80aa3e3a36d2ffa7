"""Removing what nothing refers to any more. What a registered version, or a run that can go on, needs is never touched."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlplat.errors import NotFound, Refused
from mlplat.features.store import FeatureStore
from mlplat.features.training_set import TrainingSet
from mlplat.metadata.port import Metadata
from mlplat.train.runs import LOCK, RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Something that nothing refers to: "artifact", "run", "rows" or "training set"."""

    kind: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was removed, or with `dry_run` would have been."""

    items: tuple[Garbage, ...]
    dry_run: bool

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.items)

    def __str__(self) -> str:
        said = f"{len(self.items)} things, {self.size_bytes / 1e6:,.1f} MB, {'could be' if self.dry_run else 'were'} removed"
        return "\n".join(
            [said, *(f"  {item.kind:<12} {item.path}, {item.size_bytes / 1e6:,.1f} MB" for item in self.items)]
        )


def collect(
    home: Path, metadata: Metadata, features: FeatureStore, *, now_us: int, older_us: int, dry_run: bool
) -> Collected:
    before_s = (now_us - older_us) / 1e6
    found: list[Garbage] = []
    with_run: set[str] = set()
    for folder in _folders(home / "runs"):
        if _touched_s(folder) < before_s and _idle(folder):
            found.append(_garbage("run", folder))
        else:
            with_run |= _snapshots(folder, metadata)
    found += [_garbage("artifact", p) for p in _artifacts(home, metadata) if _touched_s(p) < before_s]
    found += [_garbage("rows", p) for p in _folders(home / "cache" / "rows") if _touched_s(p) < before_s]
    sets = [d for d in features.training_sets() if d.snapshot not in with_run and d.path.stat().st_mtime < before_s]
    if not dry_run:
        for item in found:
            shutil.rmtree(item.path)
    for data in sets:
        item = _garbage("training set", data.path)
        found += [item] if _free(data, features, dry_run=dry_run) else []
    return Collected(items=tuple(found), dry_run=dry_run)


def _free(data: TrainingSet, features: FeatureStore, *, dry_run: bool) -> bool:
    try:
        if dry_run:
            features.refuse_if_trained(data)
        else:
            features.delete_training_set(data)
    except Refused:
        return False
    return True


def _artifacts(home: Path, metadata: Metadata) -> Iterator[Path]:
    """Of no registered version, and what was being written when a process was killed. Those under a name that the store does
    not know stay: it may be another store than the one they are registered in."""
    for name in metadata.names():
        digests = {version.digest for version in metadata.versions(name)}
        yield from (path for path in _folders(home / "models" / name) if path.name not in digests)


def _snapshots(run: Path, metadata: Metadata) -> set[str]:
    run_id = RunFolder(path=run).run_id
    try:
        return set() if run_id is None else {metadata.run(run_id)["tags"]["snapshot"]}
    except (NotFound, KeyError):
        return set()


def _idle(run: Path) -> bool:
    """Whether no process runs it."""
    with (run / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.exists() else []


def _touched_s(path: Path) -> float:
    """The newest change of a folder and of all below it; seconds since the epoch."""
    return max(p.stat().st_mtime for p in (path, *path.rglob("*")))


def _garbage(kind: str, path: Path) -> Garbage:
    files = (p for p in (path, *path.rglob("*")) if p.is_file())
    return Garbage(kind=kind, path=path, size_bytes=sum(p.stat().st_size for p in files))
