"""What a run is given, and what comes of it: the values that travel to workers and back. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlplat.model.canonical import canonical
from mlplat.model.estimator import Estimator
from mlplat.model.inputs import InputEncoding
from mlplat.model.task import Task
from mlplat.train.progress import EpochMetrics
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A training set as workers read it: learnt from are the rows before `cut_us`, the others are held out."""

    path: Path
    snapshot: str
    label: str
    time: str
    cut_us: int
    task: Task
    encoding: InputEncoding

    @property
    def key(self) -> str:
        about = [self.snapshot, self.label, self.time, self.cut_us, self.task.to_json(), self.encoding.to_json()]
        return hashlib.sha256(canonical(about)).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every worker gets. `folder` is the run's own, on a disk that all workers share; `cache` one of the node. `epochs`:
    that many, and the last one's weights, where no rows are held out to judge by."""

    source: Source
    science: Science
    settings: TrainSettings
    folder: Path
    cache: Path
    threads: int = 1
    epochs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The weights of the best epoch, and all epochs. Of rank 0. A fitted `estimator` is all that its fit came to."""

    weights: Mapping[str, np.ndarray[Any, Any]]
    history: tuple[EpochMetrics, ...]
    estimator: Estimator | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Yielded:
    """The run was asked to stop and can go on after `step` steps."""

    step: int
