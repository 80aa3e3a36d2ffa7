"""The bytes of the online store's keys and rows: one blob per (view version, entity). Fixed layout, little-endian, no
pickle.

A row blob is a head and the row. The head is `time, id`, or `time, created, id` where the source has `created`, in
microseconds UTC: of two rows the newer one has the greater head. All numbers come first and have 8 bytes, so that the
blobs of a view without text, joined, are one matrix (`mlplat.features.block`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mlplat.errors import Corrupt, InvalidInput
from mlplat.model.signature import DType

NUMBERS: Mapping[DType, str] = {"float64": "d", "int64": "q", "bool": "q", "timestamp": "q"}
WORD_BITS = 64
# Bytes of an entity that is not hashed (LMDB keys end at 511).
_LONGEST = 420
# Half of a surrogate pair is no text, and no entity: it has a key at which nothing is.
_LONE = "surrogatepass"


def view_prefix(view: str, version: str) -> bytes:
    """What all keys of a view version begin with, and no other."""
    return f"{view}@{version}/".encode()


def mark_key(view: str, version: str) -> bytes:
    """Where a view's mark is; no entity begins with its letter."""
    return view_prefix(view, version) + b"mark"


def entity_key(view: str, version: str, entity: Sequence[Any]) -> bytes:
    """The store's key of an entity: different entities have different keys, and a long one is hashed (128 bits).

    A key value is text, an integer, true or false, or None; anything else is `InvalidInput`.
    """
    return view_prefix(view, version) + _entity(entity)


def entity_keys(prefix: bytes, columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """The keys of many entities, from their key columns."""
    if len(columns) != 1:
        return [prefix + _entity(entity) for entity in zip(*columns, strict=True)]
    (column,) = columns
    fast = _number_keys if column and type(column[0]) is int else _text_keys
    return fast(prefix, column) or [prefix + _entity((value,)) for value in column]


def _text_keys(prefix: bytes, column: Sequence[Any]) -> list[bytes]:
    """None, unless all are short texts: joined, encoded once and taken apart, which is much faster than one by one."""
    text = prefix.decode() + "s"
    try:
        keys = (text + f"\0{text}".join(column)).encode(errors=_LONE).split(b"\0")
    except TypeError:
        return []
    return keys if len(keys) == len(column) and max(map(len, keys)) <= len(prefix) + _LONGEST else []


def _number_keys(prefix: bytes, column: Sequence[Any]) -> list[bytes]:
    """None, unless all are integers."""
    number = prefix + b"i%d"
    return [number % value for value in column] if set(map(type, column)) == {int} else []


def _entity(values: Sequence[Any]) -> bytes:
    if len(values) == 1:
        raw = _piece(values[0])
    else:
        raw = b"t" + b"".join(b"%d:%b" % (len(piece), piece) for piece in map(_piece, values))
    return raw if len(raw) <= _LONGEST else b"h" + hashlib.blake2b(raw, digest_size=16).digest()


def _piece(value: Any) -> bytes:
    if type(value) is str:
        return b"s" + value.encode(errors=_LONE)
    if type(value) is int:
        return b"i%d" % value
    if type(value) is bool:
        return b"b%d" % value
    if value is None:
        return b"n"
    if isinstance(value, np.generic):
        return _piece(value.item())
    raise InvalidInput(f"key {value!r} is {type(value).__name__}, and a key is text, an integer, or true or false")


class RowCodec:
    """Encodes the values of one row by dtype: the numbers, a null mask, then the texts with their lengths.

    Equal rows have equal bytes, and only equal rows: this is what parity compares.
    """

    def __init__(self, dtypes: Sequence[DType]) -> None:
        self.numbers = [i for i, dtype in enumerate(dtypes) if dtype != "string"]
        self.texts = [i for i, dtype in enumerate(dtypes) if dtype == "string"]
        self.words = -(-len(dtypes) // WORD_BITS)
        """Of the null mask: bit i % 64 of word i // 64 is that of column i."""
        self._bools = [i for i, dtype in enumerate(dtypes) if dtype == "bool"]
        self._zero = [0.0 if dtype == "float64" else 0 for dtype in dtypes]
        self._fixed = struct.Struct("<" + "".join(NUMBERS[dtypes[i]] for i in self.numbers) + "Q" * self.words)
        self._width = len(dtypes)

    @property
    def fixed_bytes(self) -> int:
        """The length of the numbers and the mask."""
        return self._fixed.size

    def encode(self, row: Sequence[Any]) -> bytes:
        mask = 0
        for i, value in enumerate(row):
            if value is None:
                mask |= 1 << i
        numbers = (self._zero[i] if row[i] is None else row[i] for i in self.numbers)
        words = (mask >> WORD_BITS * word & (1 << WORD_BITS) - 1 for word in range(self.words))
        return self._fixed.pack(*numbers, *words) + encode_texts(row[i] for i in self.texts)

    def decode(self, blob: bytes, offset: int = 0) -> list[Any]:
        row: list[Any] = [None] * self._width
        try:
            values = self._fixed.unpack_from(blob, offset)
        except struct.error:
            raise bad_row(blob) from None
        for i, value in zip(self.numbers, values, strict=False):
            row[i] = value
        for i in self._bools:
            row[i] = bool(row[i])
        if self.texts:
            for i, text in zip(self.texts, self.decode_texts(blob, offset), strict=True):
                row[i] = text
        for word in range(self.words):
            if mask := values[len(self.numbers) + word]:
                first = WORD_BITS * word
                for i in range(first, min(first + WORD_BITS, self._width)):
                    if mask >> (i - first) & 1:
                        row[i] = None
        return row

    def decode_texts(self, blob: bytes, offset: int) -> list[str]:
        """The texts of a row that begins at `offset`; a null one is empty."""
        at = offset + self._fixed.size
        found = []
        for _ in self.texts:
            (length,) = _LENGTH.unpack_from(blob, at)
            found.append(blob[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return found


_LENGTH = struct.Struct("<I")


def encode_texts(values: Iterable[str | None]) -> bytes:
    raw = ["" if value is None else value for value in values]
    return b"".join(_LENGTH.pack(len(text)) + text for text in map(str.encode, raw))


def bad_row(blob: bytes) -> Corrupt:
    return Corrupt(f"a row blob of the online store has {len(blob)} bytes, which is not what its view takes")


_HEADS = {2: struct.Struct("<qq"), 3: struct.Struct("<qqq")}


def encode_head(head: Sequence[int]) -> bytes:
    """Of `(time, id)` or `(time, created, id)`."""
    return _HEADS[len(head)].pack(*head)


def decode_head(blob: bytes, width: int) -> tuple[int, ...]:
    """The `width` numbers that a row blob begins with; its row is behind them."""
    return _HEADS[width].unpack_from(blob)
