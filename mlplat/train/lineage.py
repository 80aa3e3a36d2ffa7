"""What a model was made of, as it is recorded with its run: enough to make it again."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
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


@cache
def installed() -> str:
    """`name==version` of every installed package, a line each, as pip would write them."""
    found = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in metadata.distributions() if d.name}
    return "\n".join(f"{name}=={version}" for name, version in sorted(found.items()))


def changed(before: Mapping[str, str], now: Mapping[str, str], packages: str) -> list[str]:
    """In words, what differs between the tags of a run and those of now that may change its weights; `packages` are those that
    were installed then."""
    differing = [f"{name} was {before[name]}, and is {now.get(name, 'unknown')}" for name in ("python", "machine")
                 if name in before and before[name] != now.get(name)]  # fmt: skip
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
