"""What identifies an event within its time, as 64 bits: stable for ever, because it is stored with every row.

Once for a value, as a pushed event needs it, and once for a column of them; a property test compares the two. Integers go
through the finaliser of splitmix64 (Steele, Lea and Flood 2014), a bijection: two integer ids never collide. Text goes
through BLAKE2b. A row leaves its nulls out, so that a column that is added to a table changes no older identity.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Words = npt.NDArray[np.uint64]
_MASK = (1 << 64) - 1
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def value_id(value: str | float | bool) -> int:
    """Of the value of an id column; a time is its microseconds."""
    return _signed(_value(value))


def row_id(row: Mapping[str, Any]) -> int:
    """Of several columns; times are microseconds."""
    word = 0
    for name in sorted(row):
        if row[name] is not None:
            word = _mix(word ^ _mix((_seed(name) + _value(row[name])) & _MASK))
    return _signed(word)


def value_ids(column: pl.Series) -> npt.NDArray[np.int64]:
    """`value_id` of every value of a column without nulls."""
    return _values(column).view(np.int64)


def row_ids(frame: pl.DataFrame, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """`row_id` of every row, of the columns `names`."""
    words = np.zeros(frame.height, dtype=np.uint64)
    for name in sorted(names):
        column = frame[name]
        mixed = _mixed(words ^ _mixed(_values(column) + np.uint64(_seed(name))))
        words = np.where(column.is_null().to_numpy(), words, mixed) if column.null_count() else mixed
    return words.view(np.int64)


def _value(value: str | float) -> int:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _mix(value & _MASK)
    return _mix(struct.unpack("<Q", struct.pack("<d", value))[0])


def _values(column: pl.Series) -> Words:
    """The hash of every value, and anything where it is null."""
    if column.dtype == pl.String:
        texts = pa.chunked_array([column.to_arrow(compat_level=pl.CompatLevel.oldest())]).combine_chunks()
        coded = texts.dictionary_encode()
        hashes = np.array([_text(text) for text in coded.dictionary.to_pylist()] or [0], dtype=np.uint64)
        found: Words = hashes[coded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
        return found
    plain = column.to_physical().fill_null(False if column.dtype == pl.Boolean else 0)
    numbers = plain if plain.dtype == pl.Float64 else plain.cast(pl.Int64)
    return _mixed(numbers.to_numpy().view(np.uint64))


@lru_cache(maxsize=10_000)
def _seed(name: str) -> int:
    return _text(name)


def _text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(word: int) -> int:
    word = (word + _STEP) & _MASK
    word = ((word ^ (word >> 30)) * _FIRST) & _MASK
    word = ((word ^ (word >> 27)) * _SECOND) & _MASK
    return word ^ (word >> 31)


def _mixed(words: Words) -> Words:
    words = words + np.uint64(_STEP)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_FIRST)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_SECOND)
    return words ^ (words >> np.uint64(31))


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
