"""A training set: labels joined with the features that were known at each label's time, pinned to exact versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from mlplat.errors import unknown
from mlplat.model.signature import FeatureRef, Field, Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """One Arrow IPC file (uncompressed, so that workers map it) and what it was made of.

    Columns, one row per label in the order of the labels: the entity keys, `time` (timestamp[us, UTC]), `label`, the
    request fields, and the features as `view.field`. `snapshot` is a content hash: the same labels, versions and data
    give the same. `data_versions` are the table versions that were read, by source.
    """

    name: str
    path: Path
    rows: int
    label: str
    time: str
    entities: tuple[Field, ...]
    request: tuple[Field, ...]
    features: tuple[FeatureRef, ...]
    snapshot: str
    data_versions: Mapping[str, int]

    def table(self) -> pa.Table:
        """The rows, memory-mapped."""
        with pa.memory_map(str(self.path)) as source:
            return pa.ipc.open_file(source).read_all()

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows."""
        signature = self.signature(outputs=()).to_json()
        return {**asdict(self), **signature, "path": self.path.name, "data_versions": dict(self.data_versions)}

    @classmethod
    def load(cls, home: Path, name: str, snapshot: str) -> TrainingSet:
        """A stored training set. `NotFound` if the home has none of this name and snapshot."""
        folder = home / "training_sets" / name
        described = folder / f"{snapshot}.json"
        if not described.exists():
            known = [path.stem for path in folder.glob("*.json")]
            raise unknown(f"training set {name!r} with snapshot", snapshot, known)
        raw = orjson.loads(described.read_bytes())
        signature = Signature.from_json(raw)
        return cls(
            name=raw["name"],
            path=folder / raw["path"],
            rows=raw["rows"],
            label=raw["label"],
            time=raw["time"],
            entities=signature.entities,
            request=signature.request,
            features=signature.features,
            snapshot=raw["snapshot"],
            data_versions=raw["data_versions"],
        )

    def signature(self, outputs: tuple[Field, ...]) -> Signature:
        return Signature(entities=self.entities, request=self.request, features=self.features, outputs=outputs)

    def delete(self) -> None:
        """Remove it from the home; what was read of it before stays readable."""
        self.path.with_suffix(".json").unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
