"""The difference of two means that may be looked at after every observation. Pure numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """`mean` of one less the other, and bounds that hold the truth at every look at once with the confidence asked for.
    Infinite while there is too little to say anything."""

    mean: float
    low: float
    high: float


def unit_means(units: Array, values: Array) -> Array:
    """The mean of each unit's values: rows of one unit are alike, and count as one."""
    _, place, counts = np.unique(units, return_inverse=True, return_counts=True)
    out: Array = np.bincount(place, weights=values) / counts
    return out


def difference(one: Array, other: Array, *, alpha: float, scale: float) -> Interval:
    """Of independent units: mean of `one` less mean of `other`, by an asymptotic confidence sequence (Waudby-Smith, Arbour,
    Sinha, Kennedy and Ramdas 2021, Time-uniform central limit theory and asymptotic confidence sequences, theorem 2.2, with
    the variances of both means added). `scale` is the size of difference that is looked for: there the bounds are narrowest,
    and they hold whatever it is."""
    if len(one) < 2 or len(other) < 2:
        return Interval(mean=math.nan, low=-math.inf, high=math.inf)
    mean = float(one.mean() - other.mean())
    variance = float(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    if not math.isfinite(mean) or not math.isfinite(variance):
        return Interval(mean=math.nan, low=-math.inf, high=math.inf)
    if variance == 0.0:
        return Interval(
            mean=mean, low=-math.inf, high=math.inf
        )  # nothing varies: nothing is known of how much it could
    ratio = scale**2 / variance
    radius = math.sqrt(2 * variance * (1 + 1 / ratio) * math.log(math.sqrt(1 + ratio) / alpha))
    return Interval(mean=mean, low=mean - radius, high=mean + radius)


def split_p(counts: tuple[int, int], share: float) -> float:
    """The chance that units would divide at least so unevenly by themselves: chi-square with one degree of freedom, of units
    in the arm and outside it, where the arm should have `share`. Low: something loses units of one arm."""
    arm, rest = counts
    total = arm + rest
    if not total or not 0.0 < share < 1.0:
        return 1.0
    statistic = (arm - total * share) ** 2 / (total * share) + (rest - total * (1 - share)) ** 2 / (total * (1 - share))
    return math.erfc(math.sqrt(statistic / 2))
