"""The ports of the online path: the store of blobs, and the reader of the features that a model pins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mlplat.model.signature import FeatureRef

Status = Literal["ok", "missing", "expired", "late", "unavailable"]
"""The last two are an endpoint's: what did not come in its time, and what a store that failed did not give."""
Change = Callable[[list[bytes | None]], list[bytes]]
"""New blobs for old ones, position by position; what it makes of its own result is the same again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """No read as of now needs a blob more than `ttl_us` after its `event_us` (microseconds UTC)."""

    event_us: int
    ttl_us: int


class OnlineStore(Protocol):
    """Bytes by key, for many readers and writers at once: threads, processes and, where the store is a server, machines.

    Keys begin with `codec.view_prefix`. Blobs are values: nobody changes one that was given or got. Every method raises
    `Unavailable` if the store does not answer, or was closed.
    """

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The blobs in the order of the keys, None where there is none."""

    def update(self, keys: Sequence[bytes], change: Change, *, lifetimes: Sequence[Lifetime | None] = ()) -> None:
        """Replace the blobs of `keys`, which are distinct, by what `change` makes of them; readable when it returns.

        No writer undoes another's work: each new blob is made of the one that it replaces. For that `change` may be
        called more than once, and after a broken connection it may be applied twice. If `change` raises, nothing was
        changed. At least each blob is replaced as a whole; a store says if the update is.

        Of a blob with a lifetime (none is given, or one or None for each key), a store may forget what is older.
        """

    def delete(self, view: str, version: str) -> None:
        """Remove every blob of a view version, its mark too."""

    def close(self) -> None:
        """Release what the process holds. Again is fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineRows:
    """Features of n requests. `columns["view.field"]` and `status["view"]` have n entries; a value is None when it is
    null."""

    columns: Mapping[str, Sequence[Any]]
    status: Mapping[str, Sequence[Status]]


class FeatureReader(Protocol):
    """Reads the features that a model pins. Cheap to call, safe in several processes beside one writer, never blocks
    on it."""

    def read(
        self,
        refs: Sequence[FeatureRef],
        keys: Mapping[str, Sequence[Any]],
        at_us: Sequence[int],
        keep: Collection[str] = (),
    ) -> OnlineRows:
        """Features as of `at_us[i]` (microseconds UTC) for the entity in position i of every key column. What has expired is
        null, and of the views in `keep` what it was; either way its status is "expired"."""

    def prepare(self, refs: Sequence[FeatureRef], keep: Collection[str] = ()) -> None:
        """Do now what only the first read of these needs. Raises `NotFound` for a version that is not registered."""

    def close(self) -> None:
        """Release the store."""
