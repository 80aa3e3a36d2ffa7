"""Answers of models by what they depend on. Pure: no I/O, no waiting, no threads.

A key is made of the model's digest and of a row's inputs. The digest covers network, weights, encoding, outputs and the
pinned versions of the features, so nothing else decides about an answer: a successor's keys are other keys, and what no longer
serves ages out. Kept are the outputs of the model alone; arm, ids and the features' status belong to a request.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import orjson

from mlplat.clock import Clock
from mlplat.errors import InvalidInput
from mlplat.serve.frequency import Frequency

Value = TypeVar("Value")

KEY_BYTES = 16
ENTRY_BYTES = 256
"""What an entry takes in memory besides its value: the key, its place in a table, and in the order."""
_SHARDS = 256
_PLAIN = frozenset({type(None), bool, int, float, str})
_INFINITE = frozenset({math.inf, -math.inf})


def row_keys(digest: str, columns: Sequence[Sequence[Any]], rows: int) -> list[bytes]:
    """The keys of rows that are given as columns of Python's values, in the order of the model's inputs.

    Null and NaN are one value to every model; 1, 1.0, True and "1" are four. `InvalidInput` for what is no value of an input.
    """
    begun = _begun(digest)
    keys = []
    for row in _by_row(columns, rows):
        hashed = begun.copy()
        hashed.update(_canonical(row))
        keys.append(hashed.digest())
    return keys


@lru_cache(maxsize=64)
def _begun(digest: str) -> blake2b:
    return blake2b(digest.encode() + b"\0", digest_size=KEY_BYTES)  # a row's bytes have no zero byte


def _by_row(columns: Sequence[Sequence[Any]], rows: int) -> Sequence[Sequence[Any]]:
    try:
        if rows == 1:  # most requests; faster than zip
            return [[value for (value,) in columns]]
        by_row = list(zip(*columns, strict=True)) if columns else [()] * rows
    except ValueError:
        by_row = []
    if len(by_row) != rows:
        raise InvalidInput(f"{rows} rows are asked for, and columns have {sorted(set(map(len, columns)))} values")
    return by_row


def _canonical(row: Sequence[Any]) -> bytes:
    try:
        spelled = orjson.dumps(row)
        if b"n" in spelled and not _INFINITE.isdisjoint(row):  # JSON makes null of infinity too
            return _longhand(row)
    except TypeError:  # an integer of more than 64 bits, a lone surrogate, or no value of an input
        return _longhand(row)
    return spelled


def _longhand(row: Sequence[Any]) -> bytes:
    """For rows that JSON cannot spell; begins as no JSON does."""
    for value in row:
        if type(value) not in _PLAIN:
            raise InvalidInput(f"{value!r} ({type(value).__name__}) is not a value of a model's input")
    return b"~" + repr([None if value != value else value for value in row]).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounters:
    """Since the start, but `entries` and `bytes`, which are those of now. What was asked is `hits + misses`, what was put is
    `inserted + refused`, and `entries == inserted - replaced - expired - evicted - cleared`."""

    hits: int
    misses: int
    inserted: int
    refused: int
    replaced: int
    expired: int
    evicted: int
    cleared: int
    entries: int
    bytes: int


class Cache(Generic[Value]):
    """Room for a new entry is made by the one that was last used longest ago, if the new one is asked for at least as often.

    Else the old one takes its place among the fresh ones, and counts for one less in its next contest, until it is asked for
    again: so what nobody asks for any more, such as the answers of a model that was replaced, does not keep new entries out.

    Keys are digests of 16 bytes; a value is never None. `size_bytes` of each value and ENTRY_BYTES for each entry count against
    `max_bytes`, which is never exceeded; the sketch of frequencies takes up to 1/32 of it besides. An entry is gone `ttl_s`
    after it was put, by elapsed time. No call but `clear` has
    work that grows with the number of entries. For one event loop: not thread-safe.
    """

    # An entry is a number, its slot, in several columns: one object for each entry would be walked by the garbage collector,
    # again and again while they become more. `_next` and `_previous` are a ring in the order of last use; it begins and ends
    # at slot 0, which is no entry. The table from keys to slots is in shards, since a dict copies itself whole as it grows.

    def __init__(self, *, max_bytes: int, ttl_s: float | None = None, clock: Clock) -> None:
        if max_bytes < 0:
            raise InvalidInput(f"max_bytes={max_bytes}: give the bytes that the cache may take, 0 for none")
        if ttl_s is not None and not ttl_s > 0:
            raise InvalidInput(f"ttl_s={ttl_s}: give seconds above 0, or None for answers that hold for ever")
        self._max_bytes = max_bytes
        self._ttl_s = math.inf if ttl_s is None else ttl_s
        self._clock = clock
        self._hits = self._misses = self._inserted = self._refused = 0
        self._replaced = self._expired = self._evicted = self._cleared = 0
        self._empty()

    def _empty(self) -> None:
        self._frequency = Frequency(self._max_bytes // 32)
        self._slots: list[dict[bytes, int]] = [{} for _ in range(_SHARDS)]
        self._next, self._previous = array("q", [0]), array("q", [0])
        self._keys: list[bytes] = [b""]
        self._values: list[Value | None] = [None]
        self._sizes = array("q", [0])
        self._ends_s = array("d", [math.inf])
        self._won = array("B", [0])
        self._free: list[int] = []
        self._bytes = 0

    def get(self, key: bytes) -> Value | None:
        """What was put last under the key, if it is still here. Counts as asking for it."""
        self._frequency.ask(key)
        slot = self._slots[key[0]].get(key)
        if slot is None:
            self._misses += 1
            return None
        if self._clock.elapsed_s() >= self._ends_s[slot]:
            self._remove(slot)
            self._expired += 1
            self._misses += 1
            return None
        self._hits += 1
        self._won[slot] = 0
        self._unlink(slot)
        self._append(slot)
        return self._values[slot]

    def put(self, key: bytes, value: Value, size_bytes: int) -> bool:
        """Keep it, or not: whether it is kept. What was here under this key is gone in any case."""
        if size_bytes < 0:
            raise InvalidInput(f"size_bytes={size_bytes}: a value has no negative size")
        size = size_bytes + ENTRY_BYTES
        shard = self._slots[key[0]]
        old = shard.get(key)
        if old is not None:
            self._remove(old)
            self._replaced += 1
        now_s = self._clock.elapsed_s()
        if self._bytes + size > self._max_bytes and not self._make_room(key, size, now_s):
            self._refused += 1
            return False
        slot = self._free.pop() if self._free else self._grow()
        self._keys[slot] = key
        self._values[slot] = value
        self._sizes[slot] = size
        self._ends_s[slot] = now_s + self._ttl_s
        self._won[slot] = 0
        shard[key] = slot
        self._append(slot)
        self._bytes += size
        self._inserted += 1
        return True

    def clear(self) -> None:
        """Forget all entries and frequencies. The counters go on."""
        self._cleared += self._entries()
        self._empty()

    def counters(self) -> CacheCounters:
        return CacheCounters(
            hits=self._hits,
            misses=self._misses,
            inserted=self._inserted,
            refused=self._refused,
            replaced=self._replaced,
            expired=self._expired,
            evicted=self._evicted,
            cleared=self._cleared,
            entries=self._entries(),
            bytes=self._bytes,
        )

    def _make_room(self, key: bytes, size: int, now_s: float) -> bool:
        """Whether there is room now. Entries that lost are gone even if a later one wins: so each contest is fought once."""
        if size > self._max_bytes:
            return False
        asked = self._frequency.of(key)
        while self._bytes + size > self._max_bytes:
            oldest = self._next[0]
            if now_s >= self._ends_s[oldest]:
                self._expired += 1
            elif self._frequency.of(self._keys[oldest]) - self._won[oldest] <= asked:
                self._evicted += 1
            else:
                self._won[oldest] += 1
                self._unlink(oldest)
                self._append(oldest)
                return False
            self._remove(oldest)
        return True

    def _entries(self) -> int:
        return len(self._keys) - 1 - len(self._free)

    def _grow(self) -> int:
        slot = len(self._keys)
        self._keys.append(b"")
        self._values.append(None)
        self._sizes.append(0)
        self._ends_s.append(0.0)
        self._won.append(0)
        self._next.append(0)
        self._previous.append(0)
        return slot

    def _remove(self, slot: int) -> None:
        key = self._keys[slot]
        del self._slots[key[0]][key]
        self._unlink(slot)
        self._bytes -= self._sizes[slot]
        self._keys[slot] = b""
        self._values[slot] = None
        self._free.append(slot)

    def _unlink(self, slot: int) -> None:
        before, after = self._previous[slot], self._next[slot]
        self._next[before] = after
        self._previous[after] = before

    def _append(self, slot: int) -> None:
        last = self._previous[0]
        self._next[last] = self._previous[0] = slot
        self._previous[slot] = last
        self._next[slot] = 0
