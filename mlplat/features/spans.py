"""Spans of days that statistics are kept by: a bounded number of them, the oldest coarsest. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

import numpy as np

from mlplat.clock import US_PER_S

MAX_SPANS = 128
DAY_US = 86_400 * US_PER_S

Span = tuple[int, int]
"""The first day, and the day after the last, since the epoch."""


def with_days(known: Iterable[Span], days: Iterable[int]) -> list[Span]:
    """Disjoint spans in order that cover both: days while they are few, else months, then years, then one for all before.

    A known span is in one of them whole. Of calendar months and years that hold several spans the oldest go together first.
    """
    spans = sorted(known)
    ends = np.array([end for _, end in spans], dtype=np.int64)
    starts = np.array([start for start, _ in spans], dtype=np.int64)
    new = np.unique(np.fromiter(days, dtype=np.int64))
    at = np.searchsorted(starts, new, side="right") - 1
    outside = (at < 0) | (new >= ends[at]) if len(spans) else np.ones(len(new), dtype=bool)
    spans = sorted([*spans, *((int(day), int(day) + 1) for day in new[outside])])
    spans = _coarser(_coarser(spans, "M"), "Y")
    surplus = len(spans) - MAX_SPANS
    return spans if surplus <= 0 else [(spans[0][0], spans[surplus][1]), *spans[surplus + 1 :]]


def _coarser(spans: list[Span], unit: Literal["M", "Y"]) -> list[Span]:
    surplus = len(spans) - MAX_SPANS
    if surplus <= 0:
        return spans
    result: list[Span] = []
    for period, group in itertools.groupby(spans, lambda span: _period(span[0], unit)):
        inside = list(group)
        if surplus > 0 and len(inside) > 1 and inside[-1][1] <= period[1]:
            surplus -= len(inside) - 1
            inside = [(min(period[0], inside[0][0]), period[1])]
        result += inside
    return result


def _period(day: int, unit: Literal["M", "Y"]) -> Span:
    """The calendar month or year of a day."""
    first = np.datetime64(day, "D").astype(f"datetime64[{unit}]")
    start, end = (int(edge.astype("datetime64[D]").astype(np.int64)) for edge in (first, first + 1))
    return start, end
