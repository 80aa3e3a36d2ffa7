"""What new events change in the online store: which blobs, and how. Applying the same events again changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from mlplat.clock import US_PER_S
from mlplat.features.codec import ALWAYS_US, Events, decode_row_head, encode_row, entity_key
from mlplat.features.definitions import View
from mlplat.features.push import Row
from mlplat.features.tables import ID
from mlplat.features.transform import row_codec, stored

Update = tuple[bytes, "RowUpdate | WindowUpdate | MarkUpdate"]


def keep_us(view: View) -> int:
    """How much history a window blob keeps behind its newest event: twice the longest window and an hour, so that a
    request may ask about a moment a little before the newest event and still see whole windows."""
    return 2 * view.span_us + 3_600 * US_PER_S


class RowUpdate:
    """The newest row of an entity: wins over an older one, by (time, id)."""

    def __init__(self, time_us: int, event_id: int, body: bytes) -> None:
        self._order = (time_us, event_id)
        self._body = body

    def __call__(self, blob: bytes | None) -> bytes:
        if blob is not None and decode_row_head(blob) >= self._order:
            return blob
        return encode_row(*self._order, self._body)


class WindowUpdate:
    """More events of an entity."""

    def __init__(self, events: Events, keep: int) -> None:
        self._events = events
        self._keep = keep

    def __call__(self, blob: bytes | None) -> bytes:
        width = len(self._events.values)
        known = Events.empty(width) if blob is None else Events.decode(blob, width)
        return known.merged(self._events, keep_us=self._keep).encode()


class MarkUpdate:
    """How far a view has come: the newest batch of its table that the store has."""

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
    names = view.value_columns()
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        entity = tuple(row[key] for key in view.keys)
        if None not in entity:
            grouped.setdefault(entity, []).append(row)
    return [
        _window_update(
            view,
            entity,
            [row[view.source.time] for row in group],
            [row[ID] for row in group],
            [[row[name] for row in group] for name in names],
        )
        for entity, group in grouped.items()
    ]


def latest_updates(view: View, rows: Sequence[Row]) -> list[Update]:
    """From events in normal form, for a view without a transform: what `row_updates` of `make_rows` gives, without a
    table."""
    newest: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        entity = tuple(row[key] for key in view.keys)
        known = newest.get(entity)
        if None not in entity and (known is None or _order(view, row) > _order(view, known)):
            newest[entity] = row
    codec = row_codec(view)
    return [
        (
            entity_key(view.name, view.version, entity),
            RowUpdate(*_order(view, row), codec.encode([row[str(f.column)] for f in stored(view)])),
        )
        for entity, row in newest.items()
    ]


def _order(view: View, row: Row) -> tuple[int, int]:
    return row[view.source.time], row[ID]


def row_updates(view: View, rows: pl.DataFrame) -> list[Update]:
    """From rows of the view, as `make_rows` gives them."""
    codec = row_codec(view)
    newest = (
        rows.drop_nulls(list(view.keys))
        .sort(view.source.time, ID)
        .unique(subset=list(view.keys), keep="last", maintain_order=True)
        .with_columns(pl.col(view.source.time).to_physical())
    )
    width = len(view.keys)
    columns = newest.select(*view.keys, view.source.time, ID, *(f.name for f in stored(view)))
    return [
        (
            entity_key(view.name, view.version, row[:width]),
            RowUpdate(row[width], row[width + 1], codec.encode(row[width + 2 :])),
        )
        for row in columns.iter_rows()
    ]


def bulk_window_updates(view: View, rows: pl.DataFrame) -> Iterator[Update]:
    """From a table of events, looking only at what a blob keeps."""
    keys, time, width = list(view.keys), pl.col("_time"), len(view.keys)
    kept_from = time.max().over(keys) - keep_us(view)
    recent = (
        rows.drop_nulls(keys)
        .with_columns(_time=pl.col(view.source.time).to_physical())
        .with_columns(_since=pl.when(time.min().over(keys) < kept_from).then(kept_from).otherwise(ALWAYS_US))
        .filter(time >= pl.col("_since"))
        .group_by(keys, maintain_order=True)
        .agg(pl.col("_since").first(), time, ID, *(pl.col(name).alias(f"_{name}") for name in view.value_columns()))
    )
    for row in recent.iter_rows():
        since_us, times, ids, *values = row[width:]
        yield _window_update(view, row[:width], times, ids, values, since_us=since_us)


def _window_update(
    view: View,
    entity: Sequence[Any],
    times: list[int],
    ids: list[int],
    values: list[list[Any]],
    *,
    since_us: int = ALWAYS_US,
) -> Update:
    nan = float("nan")
    events = Events(
        since_us=since_us,
        times=np.array(times, dtype=np.int64),
        ids=np.array(ids, dtype=np.int64),
        values=tuple(np.array([nan if v is None else v for v in column], dtype=np.float64) for column in values),
    )
    return entity_key(view.name, view.version, entity), WindowUpdate(events, keep_us(view))
