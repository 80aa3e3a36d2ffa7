"""How often keys are asked for, in a fixed amount of memory: a count-min sketch that forgets."""

from __future__ import annotations

from struct import Struct

_MOST = 255
_HALVES = bytes(count // 2 for count in range(_MOST + 1))
_SLICE = 64
_FEWEST = 2_048
_indices = Struct("<2Q").unpack


class Frequency:
    """Estimates of how often each key was asked for lately; too high where keys collide.

    Keys are digests of 16 bytes, so their own bits say where their two counters are. A counter is halved once in as many
    asks as there are counters: a slice at a time, so that no ask takes longer than another. Not thread-safe.
    """

    __slots__ = ("_asked", "_at", "_counts", "_mask", "_width")

    def __init__(self, max_bytes: int) -> None:
        """Takes at most `max_bytes`, but always 4 KiB."""
        self._width = max(_FEWEST, (1 << max_bytes.bit_length()) // 4)
        self._mask = self._width - 1
        self._counts = bytearray(2 * self._width)
        self._asked = 0
        self._at = 0

    def ask(self, key: bytes) -> None:
        """Count that it was asked for."""
        counts = self._counts
        a, b = _indices(key)
        a &= self._mask
        b = (b & self._mask) + self._width
        if counts[a] < _MOST:
            counts[a] += 1
        if counts[b] < _MOST:
            counts[b] += 1
        self._asked += 1
        if not self._asked % _SLICE:
            self._forget()

    def of(self, key: bytes) -> int:
        a, b = _indices(key)
        one: int = self._counts[a & self._mask]
        other: int = self._counts[(b & self._mask) + self._width]
        return one if one < other else other

    def _forget(self) -> None:
        begin, end = self._at, self._at + _SLICE
        self._counts[begin:end] = self._counts[begin:end].translate(_HALVES)
        self._at = end % len(self._counts)
