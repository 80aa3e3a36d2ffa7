"""Quantiles of numbers in a few kilobytes: KLL sketches (Karnin, Lang, Liberty 2016; Apache DataSketches).

KLL, because its rank error has a bound for every distribution, and it returns values that were there. Its coins cannot be
seeded. So a merge only puts sketches side by side, and reads their union, which is exact given the sketches: who reads the
same sketches gets the same answer, in any order. Coins fall once, in `of` many numbers and in `compact`, and what is kept
stays. (The t-digest of the same package is deterministic, and has no bound and no exact values.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasketches import kll_doubles_sketch

K = 200
RANK_ERROR = float(kll_doubles_sketch.get_normalized_rank_error(K, False))  # noqa: FBT003
"""With probability 0.99 the rank of an answer is off by at most this share of the values (0.0133)."""
MAX_PIECES = 256
"""More than so many sketches side by side are compacted."""

Floats = npt.NDArray[np.float64]

EXACT = 64 * K
"""Up to so many numbers are read exactly: in sketches of `K` no coin falls."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Serialized KLL sketches whose union is meant; in order, so that equal unions are equal."""

    pieces: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, values: Floats) -> Quantiles:
        """Of numbers without NaN. Up to `EXACT` of them are kept as they are until `compact`."""
        size = K if len(values) <= EXACT else len(values)
        return cls(
            tuple(sorted(_sketch(values[at : at + size]).serialize() for at in range(0, len(values), size or 1)))
        )

    def merge(self, other: Quantiles) -> Quantiles:
        merged = Quantiles(tuple(sorted(self.pieces + other.pieces)))
        return merged if len(merged.pieces) <= MAX_PIECES else merged.compact()

    def compact(self) -> Quantiles:
        """As one sketch, of at most 6 KiB."""
        if len(self.pieces) <= 1:
            return self
        sketch = kll_doubles_sketch(K)
        for piece in self.pieces:
            sketch.merge(kll_doubles_sketch.deserialize(piece))
        return Quantiles((sketch.serialize(),))

    def at(self, ranks: Sequence[float]) -> Floats:
        """The least value at or above each share of the values; NaN if there are none."""
        values, weights = self._weighted()
        if not len(values):
            return np.full(len(ranks), np.nan)
        total = np.cumsum(weights)
        wanted = np.asarray(ranks) * total[-1]
        found: Floats = values[np.minimum(np.searchsorted(total, wanted, side="left"), len(values) - 1)]
        return found

    def below(self, bounds: Sequence[float] | Floats, *, inclusive: bool) -> Floats:
        """The share of the values below each bound, or at it; NaN if there are none."""
        values, weights = self._weighted()
        if not len(values):
            return np.full(len(bounds), np.nan)
        total = np.concatenate([[0], np.cumsum(weights)])
        at = np.searchsorted(values, np.asarray(bounds), side="right" if inclusive else "left")
        return np.asarray(total[at] / total[-1], dtype=np.float64)

    def _weighted(self) -> tuple[Floats, npt.NDArray[np.int64]]:
        pairs = [pair for piece in self.pieces for pair in kll_doubles_sketch.deserialize(piece)]
        values = np.array([value for value, _ in pairs], dtype=np.float64)
        order = np.argsort(values, kind="stable")
        return values[order], np.array([weight for _, weight in pairs], dtype=np.int64)[order]


def _sketch(values: Floats) -> kll_doubles_sketch:
    sketch = kll_doubles_sketch(K)
    sketch.update(np.array(values, dtype=np.float64))  # it takes no read-only view
    return sketch
