"""The port to the online store, and what a read of features gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mlplat.model.signature import FeatureRef

Status = Literal["ok", "missing", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineRows:
    """Features of n requests. `columns["view.field"]` and `status["view"]` have n entries; a value is None when it is
    null."""

    columns: Mapping[str, Sequence[Any]]
    status: Mapping[str, Sequence[Status]]


class FeatureReader(Protocol):
    """Reads the features that a model pins. Cheap to call, safe in several processes beside one writer, never blocks
    on it."""

    def read(self, refs: Sequence[FeatureRef], keys: Mapping[str, Sequence[Any]], at_us: Sequence[int]) -> OnlineRows:
        """Features as of `at_us[i]` (microseconds UTC) for the entity in position i of every key column."""

    def close(self) -> None:
        """Release the store."""
