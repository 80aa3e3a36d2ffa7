"""How far the values of one column are from those of another, told from their sketches alone."""

from __future__ import annotations

import numpy as np

from mlplat.stats.column import ColumnSketch
from mlplat.stats.quantiles import Floats

BINS = 10
FLOOR = 1e-4
"""The least share of a bin: an empty one would make the index infinite."""
ATOM = 0.05
"""A single value with at least this share of the expected values is a bin of its own."""
_ALL = 1_000


def psi(expected: ColumnSketch, given: ColumnSketch) -> float | None:
    """Population stability index of numbers over the deciles of `expected`: sum of (p - q) ln(p / q).

    Under 0.1 is usually called stable, above 0.25 a major shift; n and m rows of one distribution give about 9/n + 9/m. None if
    either has no numbers.
    """
    if not expected.numbers.pieces or not given.numbers.pieces:
        return None
    deciles = expected.numbers.at([i / BINS for i in range(1, BINS)])
    edges = np.unique(np.concatenate([deciles, expected.numbers.at([0.0, 1.0])]))
    mass = expected.below(edges, inclusive=True) - expected.below(edges, inclusive=False)
    inner = edges[np.isin(edges, deciles)]
    atoms = edges[mass >= ATOM]
    # Each split ends a bin: everything up to an edge, or everything under an atom.
    splits = np.unique(np.concatenate([inner, atoms, np.nextafter(atoms, -np.inf)]))
    p, q = (np.maximum(_bins(sketch, splits), FLOOR) for sketch in (expected, given))
    return float(np.sum((p - q) * np.log(p / q)))


def _bins(sketch: ColumnSketch, splits: Floats) -> Floats:
    return np.diff(sketch.below(splits, inclusive=True), prepend=0.0, append=1.0)


def outside(expected: ColumnSketch, given: ColumnSketch) -> float | None:
    """The share of the given numbers below the least or above the greatest expected one. None if either has no numbers."""
    if not expected.numbers.pieces or not given.numbers.pieces:
        return None
    low, high = float(expected.low or 0), float(expected.high or 0)
    return float(given.below([low], inclusive=False)[0] + 1.0 - given.below([high], inclusive=True)[0])


def overlap(expected: ColumnSketch, given: ColumnSketch) -> float | None:
    """Of frequent values: the sum of the smaller of both shares, over the share that the expected ones have.

    1 is the same frequencies, 0 no common value. None where the frequent values are less than half of all, as of ids.
    """
    known = {item.value: item.at_least / expected.count for item in expected.top(_ALL)}
    covered = sum(known.values())
    if covered < 0.5 or not given.count:
        return None
    found = {item.value: item.at_most / given.count for item in given.top(_ALL)}
    return sum(min(share, found.get(value, 0.0)) for value, share in known.items()) / covered
