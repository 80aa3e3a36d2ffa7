"""The bytes of a window blob: the recent events of one entity, as arrays.

It is `since, n`, then n times, n `created` where the source has it, n ids and n values of each column. `since` is the
moment before which events were dropped. All times are microseconds UTC; null is NaN in the values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlplat.errors import Corrupt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ALWAYS_US = -(2**62)
"""The `since` of a blob that has all events of its entity."""
_HEAD = struct.Struct("<qq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The recent events of one entity in order of (time, id, created). Where the source has `created`, every version of
    an event is there: what was known at a moment stays known."""

    since_us: int
    times: Ints
    ids: Ints
    created: Ints | None = None
    values: tuple[Floats, ...]

    def encode(self) -> bytes:
        created = () if self.created is None else (self.created,)
        arrays = (self.times, *created, self.ids, *self.values)
        return b"".join([_HEAD.pack(self.since_us, len(self.times)), *(array.tobytes() for array in arrays)])

    @classmethod
    def decode(cls, blob: bytes, columns: int, *, versions: bool) -> Events:
        """`versions` says whether the source has `created`."""
        heads = 3 if versions else 2
        since_us, n = _HEAD.unpack_from(blob)
        if len(blob) != _HEAD.size + 8 * n * (heads + columns):
            raise Corrupt(f"a window blob of the online store has {len(blob)} bytes, which is not what {n} events take")
        parts = np.frombuffer(blob, dtype=np.int64, offset=_HEAD.size).reshape(heads + columns, n)
        return cls(
            since_us=since_us,
            times=parts[0],
            created=parts[1] if versions else None,
            ids=parts[heads - 1],
            values=tuple(parts[heads:].view(np.float64)),
        )

    @classmethod
    def empty(cls, columns: int, *, versions: bool) -> Events:
        none = np.empty(0, dtype=np.int64)
        created = none if versions else None
        return cls(since_us=ALWAYS_US, times=none, ids=none, created=created, values=(np.empty(0),) * columns)

    def merged(self, other: Events, *, keep_us: int) -> Events:
        """Both, each version of an event once, without what is more than `keep_us` older than the newest."""
        both = [np.concatenate(pair) for pair in zip(self._identity(), other._identity(), strict=True)]
        order = np.lexsort(both[::-1])
        times, ids, *created = (part[order] for part in both)
        keep = _differ(times, ids, *created)
        since_us = max(self.since_us, other.since_us)
        horizon = int(times[-1]) - keep_us if len(times) else ALWAYS_US
        if since_us > ALWAYS_US or (len(times) and horizon > int(times[0])):
            # Once something was dropped: so `since` and the rest do not depend on the order in which events came.
            since_us = max(since_us, horizon)
            keep &= times >= horizon
        return Events(
            since_us=since_us,
            times=times[keep],
            ids=ids[keep],
            created=created[0][keep] if created else None,
            values=tuple(np.concatenate(pair)[order][keep] for pair in zip(self.values, other.values, strict=True)),
        )

    def known(self, at_us: int) -> Events:
        """Each event once, in the last version that was known at a moment, in order of (time, created, id)."""
        if self.created is None:
            return self
        seen = np.flatnonzero(self.created <= at_us)
        # The last version of each event is the one before an event that differs.
        last = seen[np.roll(_differ(self.times[seen], self.ids[seen]), -1)]
        order = last[np.lexsort((self.ids[last], self.created[last], self.times[last]))]
        return Events(
            since_us=self.since_us,
            times=self.times[order],
            ids=self.ids[order],
            created=self.created[order],
            values=tuple(column[order] for column in self.values),
        )

    def _identity(self) -> list[Ints]:
        return [self.times, self.ids, *([] if self.created is None else [self.created])]


def _differ(*columns: Ints) -> npt.NDArray[np.bool_]:
    """Where a row differs from the one before; the first does."""
    differs = np.ones(len(columns[0]), dtype=bool)
    if len(differs):
        differs[1:] = False
        for column in columns:
            differs[1:] |= column[1:] != column[:-1]
    return differs
