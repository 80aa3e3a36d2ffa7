"""What a model was made of, as tags of its run: enough to make it again."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from mlplat.features.training_set import TrainingSet

PACKAGES = ("mlplat", "ray", "torch", "numpy", "pyarrow", "polars", "mlflow")


def lineage(data: TrainingSet, *, folder: Path) -> dict[str, str]:
    """Data snapshot and versions, feature versions, packages, and the commit of the code in `folder` if that is
    under git."""
    return {
        "snapshot": data.snapshot,
        "rows": str(data.rows),
        **{f"feature.{ref.view}": ref.version for ref in data.features},
        **{f"data.{source}": str(version) for source, version in data.data_versions.items()},
        "python": platform.python_version(),
        "packages": _json({name: _version(name) for name in PACKAGES}),
        **_commit(folder),
    }


def _commit(folder: Path) -> dict[str, str]:
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": str(bool(changed)).lower()}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (
        OSError,
        subprocess.SubprocessError,
    ):  # no git, no repository, or one too slow to ask: then there is no commit
        return None
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(dict(value), sort_keys=True)
