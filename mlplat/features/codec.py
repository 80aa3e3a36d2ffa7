"""The bytes of the online store: one blob per (view version, entity). Fixed layout, little-endian, no pickle.

A row blob is `time, id` and the row; a window blob is `since, n`, then n times, n ids and n values of each column.
`since` is the moment before which events were dropped. All times are microseconds UTC; null is NaN in a window's
values.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mlplat.errors import Corrupt
from mlplat.model.signature import DType

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ALWAYS_US = -(2**62)
"""The `since` of a blob that has all events of its entity."""
_HEAD = struct.Struct("<qq")
_FORMAT: Mapping[DType, str] = {"float64": "d", "int64": "q", "bool": "q", "timestamp": "q"}


def entity_key(view: str, version: str, entity: Sequence[Any]) -> bytes:
    """The store's key: readable view and version, then a 128-bit hash of the entity (LMDB keys end at 511 bytes)."""
    digest = hashlib.blake2b(orjson.dumps(list(entity)), digest_size=16).digest()
    return f"{view}@{version}/".encode() + digest


class RowCodec:
    """Encodes the values of one row by dtype: a null mask, the numbers, then the strings with their lengths.

    Equal rows have equal bytes, and only equal rows: this is what parity compares.
    """

    def __init__(self, dtypes: Sequence[DType]) -> None:
        self._numbers = [i for i, dtype in enumerate(dtypes) if dtype != "string"]
        self._strings = [i for i, dtype in enumerate(dtypes) if dtype == "string"]
        self._bools = [i for i, dtype in enumerate(dtypes) if dtype == "bool"]
        self._zero = [0.0 if dtype == "float64" else 0 for dtype in dtypes]
        self._mask_bytes = (len(dtypes) + 7) // 8
        self._fixed = struct.Struct("<" + "".join(_FORMAT[dtypes[i]] for i in self._numbers))
        self._width = len(dtypes)

    def encode(self, row: Sequence[Any]) -> bytes:
        mask = 0
        for i, value in enumerate(row):
            if value is None:
                mask |= 1 << i
        numbers = self._fixed.pack(*(self._zero[i] if row[i] is None else row[i] for i in self._numbers))
        texts = b"".join(_text(row[i]) for i in self._strings)
        return mask.to_bytes(self._mask_bytes, "little") + numbers + texts

    def decode(self, blob: bytes, offset: int = 0) -> list[Any]:
        row: list[Any] = [None] * self._width
        mask = int.from_bytes(blob[offset : offset + self._mask_bytes], "little")
        offset += self._mask_bytes
        for i, value in zip(self._numbers, self._fixed.unpack_from(blob, offset), strict=True):
            row[i] = value
        offset += self._fixed.size
        for i in self._bools:
            row[i] = bool(row[i])
        for i in self._strings:
            (length,) = struct.unpack_from("<I", blob, offset)
            row[i] = blob[offset + 4 : offset + 4 + length].decode()
            offset += 4 + length
        if mask:
            row = [None if mask >> i & 1 else value for i, value in enumerate(row)]
        return row


def _text(value: str | None) -> bytes:
    raw = b"" if value is None else value.encode()
    return struct.pack("<I", len(raw)) + raw


def encode_row(time_us: int, event_id: int, body: bytes) -> bytes:
    return _HEAD.pack(time_us, event_id) + body


def decode_row_head(blob: bytes) -> tuple[int, int]:
    """Time and id of a row blob; its body begins at 16."""
    return _HEAD.unpack_from(blob)


ROW_BODY = _HEAD.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The recent events of one entity in order of (time, id)."""

    since_us: int
    times: Ints
    ids: Ints
    values: tuple[Floats, ...]

    def encode(self) -> bytes:
        parts = [_HEAD.pack(self.since_us, len(self.times)), self.times.tobytes(), self.ids.tobytes()]
        return b"".join([*parts, *(v.tobytes() for v in self.values)])

    @classmethod
    def decode(cls, blob: bytes, columns: int) -> Events:
        since_us, n = _HEAD.unpack_from(blob)
        if len(blob) != _HEAD.size + 8 * n * (2 + columns):
            raise Corrupt(f"a window blob of the online store has {len(blob)} bytes, which is not what {n} events take")
        whole = np.frombuffer(blob, dtype=np.int64, offset=_HEAD.size)
        parts = whole.reshape(2 + columns, n)
        return cls(since_us=since_us, times=parts[0], ids=parts[1], values=tuple(parts[2:].view(np.float64)))

    @classmethod
    def empty(cls, columns: int) -> Events:
        none = np.empty(0, dtype=np.int64)
        return cls(since_us=ALWAYS_US, times=none, ids=none, values=(np.empty(0),) * columns)

    def merged(self, other: Events, *, keep_us: int) -> Events:
        """Both, each event once, without what is more than `keep_us` older than the newest."""
        times = np.concatenate((self.times, other.times))
        ids = np.concatenate((self.ids, other.ids))
        order = np.lexsort((ids, times))
        times, ids = times[order], ids[order]
        keep = np.ones(len(times), dtype=bool)
        keep[1:] = (times[1:] != times[:-1]) | (ids[1:] != ids[:-1])
        since_us = max(self.since_us, other.since_us)
        horizon = int(times[-1]) - keep_us if len(times) else ALWAYS_US
        if since_us > ALWAYS_US or (len(times) and horizon > int(times[0])):
            # Once something was dropped: so `since` and the rest do not depend on the order in which events came.
            since_us = max(since_us, horizon)
            keep &= times >= horizon
        values = tuple(np.concatenate(pair)[order][keep] for pair in zip(self.values, other.values, strict=True))
        return Events(since_us=since_us, times=times[keep], ids=ids[keep], values=values)
