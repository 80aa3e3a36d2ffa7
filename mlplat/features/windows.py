"""Window aggregates, exact on every path.

A sum is the correctly rounded sum of its values, and a mean that sum over their number, rounded once: neither depends on the
order of the events, on how they were batched, or on whether they come from a table or from the online store. So both paths
give the same bits by definition, and not because they run in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mlplat.features.definitions import WindowFeature

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Below this, integers held in float64 add without rounding, in any order.
EXACT = 2.0**53


def aggregate(feature: WindowFeature, values: Floats | None, lo: Ints, hi: Ints) -> npt.NDArray[np.float64 | np.int64]:
    """The feature over events [lo[i], hi[i]) of one column. Null is NaN, in and out; a count is int64.

    `values` are in order of time within an entity; it is None for a count of events.
    """
    if values is None:
        return np.maximum(hi - lo, 0)
    present = ~np.isnan(values)
    # Positions among the values that are there: null ones take no part in anything below.
    index = np.concatenate(([0], np.cumsum(present)))
    return _REDUCE[feature.aggregate](values[present], index[lo], np.maximum(index[hi], index[lo]))


def columns(
    features: Sequence[WindowFeature], events: Mapping[str, Floats], bounds: Mapping[int, tuple[Ints, Ints]]
) -> dict[str, npt.NDArray[np.float64 | np.int64]]:
    """Every feature by name; `bounds` are lo and hi by window length."""
    return {
        f.name: aggregate(f, None if f.column is None else events[f.column], *bounds[f.window_us]) for f in features
    }


def _count(values: Floats, lo: Ints, hi: Ints) -> Ints:
    return hi - lo


def _sum(values: Floats, lo: Ints, hi: Ints) -> Floats:
    result = _exact_sum(values, lo, hi) if _is_exact(values) else _slow_sum(values, lo, hi)
    return np.where(hi > lo, result, np.nan)


def _mean(values: Floats, lo: Ints, hi: Ints) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return _sum(values, lo, hi) / (hi - lo)


def _min(values: Floats, lo: Ints, hi: Ints) -> Floats:
    return _reduce(np.minimum, values, lo, hi)


def _max(values: Floats, lo: Ints, hi: Ints) -> Floats:
    return _reduce(np.maximum, values, lo, hi)


def _last(values: Floats, lo: Ints, hi: Ints) -> Floats:
    result = np.full(len(lo), np.nan)
    some = hi > lo
    result[some] = values[hi[some] - 1]
    return result


_REDUCE = {"count": _count, "sum": _sum, "mean": _mean, "min": _min, "max": _max, "last": _last}


def _is_exact(values: Floats) -> bool:
    """Whole numbers so small that no sum of any of them rounds."""
    return bool(np.all(values == np.rint(values)) and np.abs(values).sum() < EXACT)


def _exact_sum(values: Floats, lo: Ints, hi: Ints) -> Floats:
    total = np.concatenate(([0.0], np.cumsum(values)))
    difference: Floats = total[hi] - total[lo]
    return difference


def _slow_sum(values: Floats, lo: Ints, hi: Ints) -> Floats:
    listed = values.tolist()
    return np.array([math.fsum(listed[a:b]) for a, b in zip(lo.tolist(), hi.tolist(), strict=True)], dtype=np.float64)


def _reduce(ufunc: np.ufunc, values: Floats, lo: Ints, hi: Ints) -> Floats:
    result = np.full(len(lo), np.nan)
    some = hi > lo
    if some.any():
        # reduceat reduces from each index to the next: every second stretch is a window. The pad makes the last end legal.
        pairs = np.column_stack((lo[some], hi[some])).ravel()
        result[some] = ufunc.reduceat(np.append(values, 0.0), pairs)[::2]
    return result
