"""Window aggregates, exact on every path.

A sum is the correctly rounded sum of its values, and a mean that sum over their number, rounded once: neither depends
on the order of the events, on how they were batched, or on whether they come from a table or from the online store.
So both paths give the same bits by definition, and not because they run in the same order. A zero is 0.0, never -0.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mlplat.features.asof import History
from mlplat.features.definitions import View, WindowFeature
from mlplat.features.exact import FixedPoint

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Below this, integers held in float64 add without rounding, in any order.
EXACT = 2.0**53
# So many windows pay for the making of a fixed point.
MANY = 64
# From here on a float rounds to infinity.
_LIMIT = Fraction(2) ** 1024 - Fraction(2) ** 970


Us = TypeVar("Us", Ints, int)


def lower(at_us: Us, window_us: int, tile_us: int | None) -> Us:
    """Where windows that end at `at_us` begin: `at - window`, rounded down to a multiple of the tile since the epoch."""
    begin = at_us - window_us
    return begin if tile_us is None else begin - begin % tile_us


def bounds(view: View, history: History, queries: Ints, at_us: Ints) -> dict[int, tuple[Ints, Ints]]:
    """By window length, the positions [lo, hi) of the history that each query's window covers."""
    end = history.position(queries, at_us, inclusive=view.closed == "both")
    begin = {length: lower(at_us, length, view.tile_us) for length in {w.window_us for w in view.windows}}
    return {length: (history.position(queries, moment, inclusive=False), end) for length, moment in begin.items()}


class Column:
    """The values of a column that are there: null ones take no part. What its features share is computed once."""

    def __init__(self, values: Floats) -> None:
        """`values` are in order of time within an entity; null is NaN."""
        present = ~np.isnan(values)
        self.values: Floats = values[present]
        self._before = np.zeros(len(values) + 1, dtype=np.int64)
        present.cumsum(out=self._before[1:])

    def bounds(self, lo: Ints, hi: Ints) -> tuple[Ints, Ints]:
        """Events [lo, hi) as positions among the values."""
        first, end = self._before[lo], self._before[hi]
        return first, np.maximum(end, first)

    @cached_property
    def prefix(self) -> Floats | None:
        """The sums of the first n values, if they are whole numbers so small that no sum of any of them rounds."""
        with np.errstate(over="ignore"):
            exact = (self.values == np.rint(self.values)).all() and np.abs(self.values).sum() < EXACT
        return np.concatenate(([0.0], self.values.cumsum())) if exact else None

    @cached_property
    def fixed_point(self) -> FixedPoint | None:
        return FixedPoint.of(self.values)


def columns(
    features: Sequence[WindowFeature], events: Mapping[str, Floats], bounds: Mapping[int, tuple[Ints, Ints]]
) -> dict[str, Floats | Ints]:
    """Every feature by name; `bounds` are lo and hi by window length."""
    held = {name: Column(values) for name, values in events.items()}
    return {f.name: aggregate(f, None if f.column is None else held[f.column], *bounds[f.window_us]) for f in features}


def aggregate(feature: WindowFeature, column: Column | None, lo: Ints, hi: Ints) -> Floats | Ints:
    """The feature over events [lo[i], hi[i]). Null is NaN; a count is int64. The column is None for a count of
    events."""
    if column is None:
        counts: Ints = np.maximum(hi - lo, 0)
        return counts
    return _REDUCE[feature.aggregate](column, *column.bounds(lo, hi))


def _count(column: Column, lo: Ints, hi: Ints) -> Ints:
    return hi - lo


def _sum(column: Column, lo: Ints, hi: Ints) -> Floats:
    prefix = column.prefix
    result = _any_sum(column, lo, hi) if prefix is None else prefix[hi] - prefix[lo]
    # Adding 0.0 makes one zero of two: which of -0.0 and 0.0 a sum gives must not depend on the path.
    return np.where(hi > lo, result + 0.0, np.nan)


def _mean(column: Column, lo: Ints, hi: Ints) -> Floats:
    result: Floats = _sum(column, lo, hi) / np.maximum(hi - lo, 1)
    return result


def _min(column: Column, lo: Ints, hi: Ints) -> Floats:
    return _reduce(np.minimum, column.values, lo, hi)


def _max(column: Column, lo: Ints, hi: Ints) -> Floats:
    return _reduce(np.maximum, column.values, lo, hi)


def _last(column: Column, lo: Ints, hi: Ints) -> Floats:
    result = np.full(len(lo), np.nan)
    some = hi > lo
    result[some] = column.values[hi[some] - 1]
    return result


_REDUCE: Mapping[str, Callable[[Column, Ints, Ints], Floats | Ints]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "last": _last,
}


def _any_sum(column: Column, lo: Ints, hi: Ints) -> Floats:
    """For few windows, such as those of one request, the loop is faster; for many, unless it cannot, the fixed point."""
    fixed = column.fixed_point if len(lo) >= MANY else None
    return _slow_sum(column.values, lo, hi) if fixed is None else fixed.sums(lo, hi)


def _slow_sum(values: Floats, lo: Ints, hi: Ints) -> Floats:
    listed = values.tolist()
    return np.array([_rounded(listed[a:b]) for a, b in zip(lo.tolist(), hi.tolist(), strict=True)], dtype=np.float64)


def _rounded(values: list[float]) -> float:
    """The sum of finite numbers, rounded once; infinite if it is beyond the largest float."""
    try:
        return math.fsum(values)
    except OverflowError:  # of an intermediate sum: it depends on the order, and the exact sum does not
        exact = sum(map(Fraction, values), Fraction(0))
        return float(exact) if abs(exact) < _LIMIT else math.inf if exact > 0 else -math.inf


def _reduce(ufunc: np.ufunc, values: Floats, lo: Ints, hi: Ints) -> Floats:
    result = np.full(len(lo), np.nan)
    some = np.flatnonzero(hi > lo)
    if len(some):
        # reduceat reduces from each index to the next: every second stretch is a window. In order of their beginnings the
        # others are short; in the order of the labels they would be half the table each. The pad makes the last end
        # legal, and + 0.0 makes one zero of two.
        some = some[np.argsort(lo[some])]
        pairs = np.column_stack((lo[some], hi[some])).ravel()
        result[some] = ufunc.reduceat(np.append(values, 0.0), pairs)[::2] + 0.0
    return result
