"""What the tests of the feature store share: a store without Ray, times, and a slow, obvious oracle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from mlplat.clock import US_PER_S
from mlplat.features.codec import RowCodec
from mlplat.features.definitions import WindowFeature
from mlplat.features.pool import InProcess
from mlplat.features.store import FeatureStore
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


def open_store(home: Path) -> FeatureStore:
    return FeatureStore(home, clock=StillClock(), pool=InProcess())


def row_bytes(ref: FeatureRef, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """What parity compares, for every row."""
    codec = RowCodec([f.dtype for f in ref.fields])
    return [codec.encode(row) for row in zip(*(columns[name] for name in ref.columns()), strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A version of an event; `created_us` None is known at its time."""

    entity: tuple[Any, ...]
    time_us: int
    id: int
    values: Mapping[str, Any]
    created_us: int | None = None

    @property
    def known_us(self) -> int:
        return self.time_us if self.created_us is None else self.created_us

    @property
    def order(self) -> tuple[int, int, int]:
        return self.time_us, self.known_us, self.id


def visible(events: Iterable[Event], entity: tuple[Any, ...], known_us: int) -> list[Event]:
    """Of each event of the entity, the version that was known: the one with the latest `created` until then."""
    versions: dict[tuple[int, int], Event] = {}
    for event in sorted(events, key=lambda e: e.known_us):
        if None not in entity and event.entity == entity and event.known_us <= known_us:
            versions[event.time_us, event.id] = event
    return sorted(versions.values(), key=lambda e: e.order)


def window_value(
    feature: WindowFeature,
    events: Iterable[Event],
    entity: tuple[Any, ...],
    at_us: int,
    *,
    known_us: int | None = None,
    tile_us: int | None = None,
    closed: str = "left",
) -> Any:
    """The definition of a window, word for word."""
    begin = at_us - feature.window_us
    begin = begin if tile_us is None else begin // tile_us * tile_us
    end = at_us if closed == "left" else at_us + 1
    inside = [e for e in visible(events, entity, at_us if known_us is None else known_us) if begin <= e.time_us < end]
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


def newest_row(
    events: Iterable[Event], entity: tuple[Any, ...], at_us: int, ttl_us: int | None, known_us: int | None = None
) -> Event | None:
    """The definition of the newest row, word for word."""
    known = visible(events, entity, at_us if known_us is None else known_us)
    newest = max((e for e in known if e.time_us <= at_us), key=lambda e: e.order, default=None)
    if newest is None or (ttl_us is not None and at_us - newest.time_us > ttl_us):
        return None
    return newest
