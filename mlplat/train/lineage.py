"""What a model was made of, as it is recorded with its run: enough to make it again."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

from mlplat.errors import NotFound
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.port import Metadata, ModelVersion
from mlplat.model.architecture import Architecture
from mlplat.model.estimator import Estimator
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings

PACKAGES = ("mlplat", "ray", "torch", "numpy", "pyarrow", "polars", "mlflow")
LONGEST_DIFF = 1_000_000
"""Characters; of a longer one the beginning is kept."""


def tags(data: TrainingSet, *, folder: Path) -> dict[str, str]:
    """Data snapshot and versions, feature versions, main packages, the kind of machine, and the commit of the code in `folder`
    if that is under git."""
    return {
        "snapshot": data.snapshot,
        "rows": str(data.rows),
        **{f"feature.{ref.view}": ref.version for ref in data.features},
        **{f"data.{source}": str(version) for source, version in data.data_versions.items()},
        "python": platform.python_version(),
        "machine": _machine(),
        "packages": _json({name: _version(name) for name in PACKAGES}),
        **_commit(folder),
    }


def texts(
    science: Science, settings: TrainSettings, demand: Demand, *, epochs: int | None, folder: Path
) -> dict[str, str]:
    """`spec`: the call as JSON; `packages`: all that are installed; `diff`: what is not committed in `folder`."""
    network = science.network
    spec = {
        "architecture": network.to_json() if isinstance(network, Architecture) else None,
        "estimator": None if science.estimator is None else _unfitted(science.estimator),
        "epochs": epochs,
        "science": science.spelled(),
        "settings": settings.to_json(),
        "compute": demand.to_json(),
    }
    diff = (_git(folder, "diff", "HEAD", "--no-color") or "")[:LONGEST_DIFF]
    return {"spec": json.dumps(spec), "packages": installed(), **({"diff": diff} if diff else {})}


def _unfitted(estimator: Any) -> dict[str, Any]:
    kept, weights = Estimator.of(estimator)
    return {**kept.to_json(), "weights": {name: value.tobytes().hex() for name, value in weights.items()}}


def trained_on(version: ModelVersion, *, metadata: Metadata, home: Path) -> TrainingSet:
    """The training set that a version was made of. `NotFound` if its run names none, or the home has it no more."""
    snapshot = metadata.run(version.run_id)["tags"].get("snapshot")
    if snapshot is None:
        raise NotFound(
            f"version {version.version} of {version.name!r} has no run that names its training set: train it with mlplat"
        )
    return TrainingSet.load(home, version.name, snapshot)


@cache
def installed() -> str:
    """`name==version` of every installed package, a line each, as pip would write them."""
    found = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in distributions.distributions() if d.name}
    return "\n".join(f"{name}=={version}" for name, version in sorted(found.items()))


def changed(before: Mapping[str, str], now: Mapping[str, str], packages: str) -> list[str]:
    """In words, what differs between the tags of a run and those of now that may change its weights; `packages` are those that
    were installed then."""
    differing = [
        f"{name} was {before[name]}, and is {now.get(name, 'unknown')}"
        for name in ("python", "machine")
        if name in before and before[name] != now.get(name)
    ]
    commit, today = before.get("git_commit", "unknown"), now.get("git_commit", "unknown")
    if commit != today:
        differing.append(f"the code was at commit {commit}, and is at {today}")
    then, here = ({line.partition("==")[0]: line for line in text.splitlines()} for text in (packages, installed()))
    others = {name: line for name, line in then.items() if here.get(name) != line}
    return differing + [f"{line}, and now {here.get(name, 'not installed')}" for name, line in others.items()]


@cache
def _machine() -> str:
    """The architecture and the model of the processor: on another one, sums may differ in their last bits."""
    found = platform.machine()
    cpus = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", cpus.read_text(), re.MULTILINE) if cpus.exists() else None
    return f"{found}, {model[1].strip()}" if model else found


def _commit(folder: Path) -> dict[str, str]:
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": str(bool(changed)).lower()}


def _git(folder: Path, *arguments: str) -> str | None:
    """None without git, without a repository, or from one too slow to ask."""
    asked = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, errors="replace", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return distributions.version(name)
    except distributions.PackageNotFoundError:
        return "not installed"


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(dict(value), sort_keys=True)
