"""What the tests of the feature store share: a store without Ray, times, and a slow, obvious oracle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl

from mlplat.clock import US_PER_S
from mlplat.features.codec import RowCodec
from mlplat.features.definitions import View, WindowFeature
from mlplat.features.store import FeatureStore
from mlplat.features.transform import instance, make_rows
from mlplat.model.signature import FeatureRef

START = datetime(2013, 9, 1, tzinfo=UTC)
START_US = 1_377_993_600 * US_PER_S


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class StillClock:
    """A clock that stands at START."""

    def now_us(self) -> int:
        return START_US

    def elapsed_s(self) -> float:
        return 0.0


def inline_pool(view: View, rows: pl.DataFrame) -> pl.DataFrame:
    return make_rows(view, instance(view), rows)


def open_store(home: Path) -> FeatureStore:
    return FeatureStore(home, clock=StillClock(), pool=inline_pool)


def row_bytes(ref: FeatureRef, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """What parity compares, for every row."""
    codec = RowCodec([f.dtype for f in ref.fields])
    return [codec.encode(row) for row in zip(*(columns[name] for name in ref.columns()), strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    entity: tuple[Any, ...]
    time_us: int
    id: int
    values: Mapping[str, Any]


def window_value(feature: WindowFeature, events: Iterable[Event], entity: tuple[Any, ...], at_us: int) -> Any:
    """The definition of a window, word for word."""
    inside = [
        event
        for event in sorted(events, key=lambda e: (e.time_us, e.id))
        if None not in entity and event.entity == entity and at_us - feature.window_us <= event.time_us < at_us
    ]
    if feature.column is None:
        return len(inside)
    values = [v for event in inside if (v := event.values[feature.column]) is not None]
    if feature.aggregate == "count":
        return len(values)
    if not values:
        return None
    total = float(sum(map(Fraction, values), Fraction(0)))
    return {
        "sum": lambda: total,
        "mean": lambda: total / len(values),
        "min": lambda: min(values) + 0.0,
        "max": lambda: max(values) + 0.0,
        "last": lambda: values[-1],
    }[feature.aggregate]()


def newest_row(events: Iterable[Event], entity: tuple[Any, ...], at_us: int, ttl_us: int | None) -> Event | None:
    """The definition of the newest row, word for word."""
    known = [e for e in events if None not in entity and e.entity == entity and e.time_us <= at_us]
    newest = max(known, key=lambda e: (e.time_us, e.id), default=None)
    if newest is None or (ttl_us is not None and at_us - newest.time_us > ttl_us):
        return None
    return newest
