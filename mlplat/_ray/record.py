"""What a home remembers of the Ray that runs for it: a token, and the address of a local cluster while it lives."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A local cluster: the process that owns it (and ends it), and whether others may join."""

    address: str
    pid: int
    started: float
    """When the owner started, seconds since the epoch: with `pid` it names the process even if the number is used
    again.
    """
    shared: bool = False


def token_file(home: Path) -> Path:
    """The home's token for Ray, made at the first call; only its owner may read it."""
    path = home / "ray" / "token"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".token.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32))
        try:
            os.link(draft, path)  # the first of two processes wins, and both use its token
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path


def write_cluster(home: Path, cluster: Cluster) -> None:
    path = _path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".cluster.{cluster.pid}")
    draft.write_text(json.dumps(asdict(cluster)))
    draft.replace(path)


def read_cluster(home: Path) -> Cluster | None:
    """The home's local cluster, or None if there is none or its owner is gone."""
    try:
        cluster = Cluster(**json.loads(_path(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return cluster if _alive(cluster) else None


def forget_cluster(home: Path, pid: int) -> None:
    """Remove the record if it is this process's."""
    cluster = read_cluster(home)
    if cluster is not None and cluster.pid == pid:
        _path(home).unlink(missing_ok=True)


def started(pid: int) -> float:
    return float(psutil.Process(pid).create_time())


def _alive(cluster: Cluster) -> bool:
    try:
        return abs(started(cluster.pid) - cluster.started) < 1.0
    except psutil.Error:
        return False


def _path(home: Path) -> Path:
    return home / "ray" / "address.json"
