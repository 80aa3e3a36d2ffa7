"""What new events change in the online store: which blobs, and how. Applying the same events again changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from mlplat.clock import US_PER_S
from mlplat.features.codec import decode_head, encode_head, entity_key
from mlplat.features.definitions import View
from mlplat.features.events import ALWAYS_US, Events
from mlplat.features.online import Lifetime, OnlineStore
from mlplat.features.push import Row
from mlplat.features.tables import ID
from mlplat.features.transform import row_codec, stored

Update = tuple[bytes, "RowUpdate | WindowUpdate | MarkUpdate"]


def write(store: OnlineStore, updates: Sequence[Update]) -> None:
    """Bring updates, at most one for a key, into the store."""
    lifetimes = [change.lifetime for _, change in updates]
    store.update([key for key, _ in updates], lambda blobs: apply_updates(updates, blobs), lifetimes=lifetimes)


def keep_us(view: View) -> int:
    """How much history a window blob keeps behind its newest event: twice the longest window and an hour, so that a
    request may ask about a moment a little before the newest event and still see whole windows."""
    return 2 * view.span_us + 3_600 * US_PER_S


class RowUpdate:
    """The newest row of an entity: wins over an older one, by (time, id) or (time, created, id)."""

    def __init__(self, head: tuple[int, ...], body: bytes, ttl_us: int | None) -> None:
        self._head = head
        self._body = body
        self.lifetime = None if ttl_us is None else Lifetime(event_us=head[0], ttl_us=ttl_us)

    def __call__(self, blob: bytes | None) -> bytes:
        if blob is not None and decode_head(blob, len(self._head)) >= self._head:
            return blob
        return encode_head(self._head) + self._body


class WindowUpdate:
    """More events of an entity."""

    lifetime = None

    def __init__(self, events: Events, keep: int) -> None:
        self._events = events
        self._keep = keep

    def __call__(self, blob: bytes | None) -> bytes:
        width, versions = len(self._events.values), self._events.created is not None
        known = (
            Events.empty(width, versions=versions) if blob is None else Events.decode(blob, width, versions=versions)
        )
        return known.merged(self._events, keep_us=self._keep).encode()


class MarkUpdate:
    """How far a view has come: the newest batch of its table that the store has."""

    lifetime = None

    def __init__(self, batch: int) -> None:
        self._batch = batch

    def __call__(self, blob: bytes | None) -> bytes:
        return max(self._batch, self.batch(blob)).to_bytes(8, "big", signed=True)

    @staticmethod
    def batch(blob: bytes | None) -> int:
        return -1 if blob is None else int.from_bytes(blob, "big", signed=True)


def apply_updates(updates: Sequence[Update], blobs: list[bytes | None]) -> list[bytes]:
    return [change(blob) for (_, change), blob in zip(updates, blobs, strict=True)]


def window_updates(view: View, rows: Sequence[Row]) -> list[Update]:
    """From events in normal form."""
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        entity = tuple(row[key] for key in view.keys)
        if None not in entity:
            grouped.setdefault(entity, []).append(row)
    names = (*_head_columns(view), *view.value_columns())
    return [
        _window_update(view, entity, [[row[name] for row in group] for name in names])
        for entity, group in grouped.items()
    ]


def latest_updates(view: View, rows: Sequence[Row]) -> list[Update]:
    """From events in normal form, for a view without a transform: what `row_updates` of `make_rows` gives, without a
    table."""
    columns = [str(f.column) for f in stored(view)]
    return _newest(view, rows, [[row[name] for name in columns] for row in rows])


def made_updates(view: View, rows: Sequence[Row], made: pl.DataFrame) -> list[Update]:
    """The same for a view with one: `made` has the view's rows of these events, in their order."""
    return _newest(view, rows, list(zip(*(made.get_column(f.name).to_list() for f in stored(view)), strict=True)))


def _newest(view: View, rows: Sequence[Row], values: Sequence[Sequence[Any]]) -> list[Update]:
    head = _head_columns(view)
    newest: dict[tuple[Any, ...], tuple[tuple[int, ...], Sequence[Any]]] = {}
    for row, made in zip(rows, values, strict=True):
        entity = tuple(row[key] for key in view.keys)
        order = tuple(row[name] for name in head)
        if None not in entity and (entity not in newest or order > newest[entity][0]):
            newest[entity] = (order, made)
    codec = row_codec(view)
    return [
        (entity_key(view.name, view.version, entity), RowUpdate(order, codec.encode(made), view.ttl_us))
        for entity, (order, made) in newest.items()
    ]


def newest_rows(view: View, rows: pl.DataFrame) -> pl.DataFrame:
    """Of rows of the view, those that the online store may keep: one for each entity."""
    keys = list(view.keys)
    return rows.drop_nulls(keys).sort(_head_columns(view)).unique(subset=keys, keep="last", maintain_order=True)


def row_updates(view: View, rows: pl.DataFrame) -> list[Update]:
    """From rows of the view, as `make_rows` gives them."""
    codec = row_codec(view)
    head = _head_columns(view)
    newest = newest_rows(view, rows)
    entities = newest.select(view.keys).iter_rows()
    heads = newest.select(pl.col(head).to_physical()).iter_rows()
    bodies = newest.select(f.name for f in stored(view)).with_columns(pl.col(pl.Datetime).to_physical()).iter_rows()
    return [
        (entity_key(view.name, view.version, entity), RowUpdate(order, codec.encode(body), view.ttl_us))
        for entity, order, body in zip(entities, heads, bodies, strict=True)
    ]


def bulk_window_updates(view: View, rows: pl.DataFrame) -> Iterator[Update]:
    """From a table of events, looking only at what a blob keeps."""
    keys, time, width = list(view.keys), pl.col("_time"), len(view.keys)
    kept_from = time.max().over(keys) - keep_us(view)
    columns = (*_head_columns(view)[1:], *view.value_columns())
    recent = (
        rows.drop_nulls(keys)
        .with_columns(_time=pl.col(view.source.time).to_physical())
        .with_columns(_since=pl.when(time.min().over(keys) < kept_from).then(kept_from).otherwise(ALWAYS_US))
        .filter(time >= pl.col("_since"))
        .group_by(keys, maintain_order=True)
        .agg(pl.col("_since").first(), time, *(pl.col(c).to_physical().alias(f"_{i}") for i, c in enumerate(columns)))
    )
    for row in recent.iter_rows():
        since_us, *arrays = row[width:]
        yield _window_update(view, row[:width], arrays, since_us=since_us)


def _head_columns(view: View) -> tuple[str, ...]:
    """What orders the rows of an entity."""
    created = view.source.created
    return (view.source.time, ID) if created is None else (view.source.time, created, ID)


def _window_update(
    view: View, entity: Sequence[Any], arrays: Sequence[Sequence[Any]], *, since_us: int = ALWAYS_US
) -> Update:
    """`arrays` are the head columns, then the values."""
    width = len(_head_columns(view))
    times, *created, ids = (np.array(array, dtype=np.int64) for array in arrays[:width])
    nan = float("nan")
    events = Events(
        since_us=since_us,
        times=times,
        ids=ids,
        created=created[0] if created else None,
        values=tuple(np.array([nan if v is None else v for v in array], dtype=np.float64) for array in arrays[width:]),
    )
    return entity_key(view.name, view.version, entity), WindowUpdate(events, keep_us(view))
