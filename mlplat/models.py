"""What a home's registered models can be asked: which one is meant, what it answers, what it was made of, how it stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, Refused, unknown
from mlplat.features.definitions import duration_us
from mlplat.features.store import FeatureStore
from mlplat.features.transform import POLARS_TYPES
from mlplat.metadata.port import Goal, Metadata, ModelVersion
from mlplat.model import artifact
from mlplat.model.model import Model
from mlplat.train import TrainedModel, judged
from mlplat.train.collect import Collected, collect
from mlplat.train.history import GoldPeriod, Lineage, gold_history, leaderboard, lineage_of
from mlplat.train.rows import encoded_labels


class Models(ABC):
    """A part of `Platform`, which has the stores."""

    home: Path
    _clock: Clock

    @property
    @abstractmethod
    def features(self) -> FeatureStore: ...

    @property
    @abstractmethod
    def metadata(self) -> Metadata: ...

    def version(self, model: TrainedModel | ModelVersion | str) -> ModelVersion:
        """The registered version that is meant: a name stands for its gold version, `name@3` for version 3."""
        if not isinstance(model, str):
            return model if isinstance(model, ModelVersion) else model.version
        name, _, number = model.partition("@")
        if not number:
            return self.gold(name)
        if not number.isdigit():
            raise InvalidInput(f"model {model!r}: write a name, or a name and a version, as in {name}@3")
        return self.metadata.version(name, int(number))

    def gold(self, name: str) -> ModelVersion:
        """The gold version of a name. `Refused` if it has none, `NotFound` if nothing has the name."""
        found = self.metadata.alias(name, "gold") if name in self.metadata.names() else None
        if found is not None:
            return found
        if name in self.metadata.names():
            raise Refused(f"{name!r} has no gold model: promote one first, with platform.promote(model)")
        raise unknown("model", name, self.metadata.names())

    def load(self, model: TrainedModel | ModelVersion | str) -> Model:
        """The model itself, its bytes checked against the digest that was registered."""
        version = self.version(model)
        path = artifact.place(self.home, version.name, version.digest)
        return artifact.load(path, digest=version.digest, trusted=True).model

    def export(self, model: TrainedModel | ModelVersion | str, path: str | Path) -> Path:
        """Write a model to a file that others can answer with: `.onnx` (extra `mlplat[onnx]`). `mlplat.model.onnx` says what is
        in it. Returns its path."""
        target = Path(path)
        if target.suffix != ".onnx":
            raise InvalidInput(f"{target}: a model is exported to a file whose name ends in .onnx")
        from mlplat.model.onnx import export_onnx

        export_onnx(self.load(model), target)
        return target

    def predict(self, model: TrainedModel | ModelVersion | str, rows: Any, *, time: str) -> pl.DataFrame:
        """Predict in batch: the rows with the features that the model pins, as they were known at `time`, and the outputs.

        The same numbers as online, to 1e-6. `model` may be a name; then it is the gold one.
        """
        loaded = self.load(model)
        return answered(loaded, self.features.join(rows, loaded.signature.features, time=time))

    def evaluate(
        self, model: TrainedModel | ModelVersion | str, labels: Any, *, label: str, time: str
    ) -> Mapping[str, float]:
        """The metrics of a model's task on labelled rows, and how many `rows` there are. `InvalidInput` for a label that is not
        of its task."""
        task = self.load(model).task
        predicted = self.predict(model, labels, time=time)
        truth = encoded_labels(predicted.select(label).to_arrow(compat_level=pl.CompatLevel.oldest()), label, task)
        answers = {field.name: predicted[field.name].to_numpy() for field in task.fields()}
        metrics = judged.metrics(task, truth.astype(float), judged.predictions(task, answers))
        return {"rows": float(predicted.height), **metrics}

    def lineage(self, model: TrainedModel | ModelVersion | str) -> Lineage:
        """What a model was made of: data, features, code, settings, packages, machine, and what was decided about it. Print it,
        or take its `to_json()`. A name stands for its gold version, `name@3` for version 3."""
        return lineage_of(self.version(model), self.metadata)

    def gold_history(self, name: str) -> list[GoldPeriod]:
        """Which versions were gold, when and why, oldest first."""
        return gold_history(name, self.metadata)

    def set_goal(
        self, name: str, *, metric: str, direction: Literal["max", "min"], target: float | None = None
    ) -> None:
        """What the models of a name are for: the metric that counts, and from where on it is good enough."""
        self.metadata.set_goal(name, Goal(metric=metric, direction=direction, target=target))

    def leaderboard(self, name: str) -> pl.DataFrame:
        """The versions of a name with their metrics on the rows held out, best first by its goal."""
        if name not in self.metadata.names():
            raise unknown("model", name, self.metadata.names())
        return leaderboard(name, self.metadata)

    def collect(self, *, older_than: str = "7d", dry_run: bool = False) -> Collected:
        """Remove what nothing refers to and nobody has touched for `older_than`: artifacts of no registered version, runs that
        nobody went on with, encoded rows, and training sets of which no model was made. `dry_run` only says what. What a
        version, an alias or a run in progress needs stays."""
        older_us = duration_us(older_than)
        return collect(
            self.home, self.metadata, self.features, now_us=self._clock.now_us(), older_us=older_us, dry_run=dry_run
        )


def answered(model: Model, joined: pl.DataFrame) -> pl.DataFrame:
    """Rows with their features, and the outputs."""
    outputs = model.predict(joined.to_arrow(compat_level=pl.CompatLevel.oldest()))
    types = {field.name: POLARS_TYPES[field.dtype] for field in model.signature.outputs}  # also where there are no rows
    return joined.with_columns(pl.Series(name, outputs[name], dtype=dtype) for name, dtype in types.items())
