"""Making a model again from its record, and comparing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, NotFound
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.jobs.lease import Lease
from mlplat.metadata.port import Metadata, ModelVersion
from mlplat.model.architecture import Architecture
from mlplat.model.artifact import Artifact, load, place
from mlplat.model.estimator import Estimator
from mlplat.model.model import Model
from mlplat.train import lineage
from mlplat.train.progress import Progress
from mlplat.train.run import Interrupted, Run
from mlplat.train.science import Fits, Science
from mlplat.train.settings import TrainSettings

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """A version made again in the run `run_id`. `difference` is 0 if the model is the same to the bit; else the greatest
    between two weights, or of an estimator between two answers to its golden rows. `changed` are differences between then
    and now that may be why, in words."""

    version: ModelVersion
    run_id: str
    difference: float
    changed: tuple[str, ...]

    @property
    def same(self) -> bool:
        return self.difference == 0.0

    def __str__(self) -> str:
        name = f"{self.version.name}@{self.version.version}"
        if self.same:
            return f"{name} was made again: the weights are the same to the bit"
        why = (
            "\n".join(f"  {line}" for line in self.changed)
            or "  nothing that was recorded: is the code random beyond its seed?"
        )
        return f"{name} was made again: weights differ by up to {self.difference:.3g}. What has changed since:\n{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the record of a version says of its call."""

    data: TrainingSet
    network: Architecture | Fits | None
    epochs: int | None
    spelled: dict[str, str]
    settings: TrainSettings
    demand: Demand

    @classmethod
    def of(cls, version: ModelVersion, *, metadata: Metadata, home: Path) -> Record:
        """`NotFound` if its run has none."""
        texts = metadata.texts(version.run_id)
        if "spec" not in texts:
            raise NotFound(
                f"version {version.version} of {version.name!r} was trained before records held what is needed"
            )
        spec = json.loads(texts["spec"])
        return cls(
            data=lineage.trained_on(version, metadata=metadata, home=home),
            network=_network(spec),
            epochs=spec.get("epochs"),
            spelled=spec["science"],
            settings=TrainSettings.from_json(spec["settings"]),
            demand=Demand.parse(spec["compute"]),
        )


def reproduce(
    version: ModelVersion,
    *,
    science: Science | None,
    metadata: Metadata,
    home: Path,
    clock: Clock,
    progress: Progress,
    code: Path | None = None,
    lease: Lease | None = None,
    scratch: Path | None = None,
) -> Reproduced:
    """Train again what a version's record says, on the same training set, and compare the weights. Nothing is registered.

    `science` is the user's own code, where there was some: `InvalidInput` if it is not what it was. `lease` are the slots for the
    workers.
    """
    recorded = Record.of(version, metadata=metadata, home=home)
    before = metadata.run(version.run_id)["tags"]
    run = Run(
        data=recorded.data,
        science=science_of(recorded, science, before.get("git_commit")),
        settings=recorded.settings,
        demand=recorded.demand,
        metadata=metadata,
        home=home,
        clock=clock,
        progress=progress,
        code=code or Path.cwd(),
        purpose={"reproduces": version.run_id},
        parent=version.run_id,
        epochs=recorded.epochs,
        lease=lease,
        scratch=scratch,
    )
    with run.fitted(lambda: False) as fitted:
        assert not isinstance(fitted, Interrupted)
        kept = load(place(home, version.name, version.digest), digest=version.digest, trusted=True)
    now = lineage.tags(recorded.data, folder=code or Path.cwd())
    return Reproduced(
        version=version,
        run_id=fitted.run_id,
        difference=_difference(kept, fitted.model),
        changed=tuple(lineage.changed(before, now, metadata.texts(version.run_id)["packages"])),
    )


def science_of(recorded: Record, given: Science | None, commit: str | None) -> Science:
    """What a version was made with; `given` is the user's own code, where there was some: `InvalidInput` if it is not what it
    was."""
    if given is None and recorded.network is not None and recorded.spelled.keys() == {"network"}:
        return Science(network=recorded.network)
    found = {} if given is None else given.spelled()
    differing = sorted(
        name for name in recorded.spelled.keys() | found.keys() if recorded.spelled.get(name) != found.get(name)
    )
    if differing or given is None:
        where = f" at commit {commit}" if commit else ""
        raise InvalidInput(
            f"the model was made with code of yours{where}: {recorded.spelled}. Give the same again; what differs is "
            f"{', '.join(differing)}"
        )
    return given


def _network(spec: Mapping[str, Any]) -> Architecture | Fits | None:
    """None where it is code of the user's own."""
    if spec["architecture"] is not None:
        return Architecture.from_json(spec["architecture"])
    unfitted = spec.get("estimator")
    if unfitted is None:
        return None
    weights = {name: np.frombuffer(bytes.fromhex(text), np.uint8) for name, text in unfitted["weights"].items()}
    made: Fits = Estimator.from_json(unfitted).made(weights)
    return made


def _difference(kept: Artifact, made: Model) -> float:
    if kept.model.digest == made.digest:
        return 0.0
    if isinstance(made.network, Estimator):
        return max(kept.golden.difference(made), TINY)
    apart = [_apart(value, made.weights[name]) for name, value in kept.model.weights.items()]
    return max(apart, default=0.0)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    if one.tobytes() == other.tobytes():
        return 0.0
    found = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
    return found if found > 0 else TINY  # bits alone: a zero's sign, a NaN
