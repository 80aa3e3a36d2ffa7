"""Is one of two models better on the same rows, and by how much? Resampled, not assumed. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplat.errors import InvalidInput

Array = np.ndarray[Any, Any]

BLOCKS, ROUNDS = 400, 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean of paired differences with an interval that holds it with `confidence`, and one-sided p-values: the chance of
    a mean so far below (above) 0 if there is no difference."""

    mean: float
    low: float
    high: float
    confidence: float
    p_below: float
    p_above: float


def difference(
    differences: Array, *, confidence: float = 0.95, blocks: int = BLOCKS, rounds: int = ROUNDS, seed: int = 0
) -> Difference:
    """Of differences in the order of time, by a bootstrap over contiguous blocks of rows (Künsch 1989, The Jackknife and the
    Bootstrap for General Stationary Observations): rows close in time are alike, and resampling them one by one would promise
    too much. With up to `blocks` rows each is a block. Raises `InvalidInput` for fewer than 2 rows or a number that is not
    finite."""
    if len(differences) < 2 or not np.isfinite(differences).all():
        raise InvalidInput(
            f"{len(differences)} differences, {int((~np.isfinite(differences)).sum())} of them not finite"
        )
    parts = np.array_split(differences, min(blocks, len(differences)))
    sums, sizes = np.array([part.sum() for part in parts]), np.array([len(part) for part in parts], dtype=float)
    drawn = np.random.default_rng(seed).integers(0, len(parts), size=(rounds, len(parts)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    mean, tail = float(differences.mean()), (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    centred = means - mean  # how means would lie if there were no difference
    return Difference(
        mean=mean,
        low=float(low),
        high=float(high),
        confidence=confidence,
        p_below=float((1 + (centred <= mean).sum()) / (rounds + 1)),
        p_above=float((1 + (centred >= mean).sum()) / (rounds + 1)),
    )


def discoveries(p_values: Sequence[float], *, rate: float) -> list[bool]:
    """Which of several tests found something, where at most a share `rate` of those found may be false (Benjamini and
    Hochberg 1995, Controlling the False Discovery Rate)."""
    order = np.argsort(p_values, kind="stable")
    found = [False] * len(order)
    passing = [k for k, at in enumerate(order, 1) if p_values[at] <= rate * k / len(order)]
    for at in order[: max(passing, default=0)]:
        found[int(at)] = True
    return found
