"""A training set: labels joined with the features that were known at each label's time, pinned to exact versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mlplat.model.signature import FeatureRef, Field, Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """One Arrow IPC file (uncompressed, so that workers map it) and what it was made of.

    Columns, one row per label in the order of the labels: the entity keys, `time` (timestamp[us, UTC]), `label`, the request
    fields, and the features as `view.field`. `snapshot` is a content hash: the same labels, versions and data give the same.
    `data_versions` are the table versions that were read, by source.
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

    def signature(self, outputs: tuple[Field, ...]) -> Signature:
        return Signature(entities=self.entities, request=self.request, features=self.features, outputs=outputs)
