"""How the features of a view version come of its blobs (or, of a derived view, of its parents' features). Made once per
version: versions never change."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from mlplat.clock import US_PER_S
from mlplat.errors import InvalidInput
from mlplat.features import windows
from mlplat.features.block import EXPIRED, MISSING, OK, Block, Codes, Floats, Ints, Layout, Mask
from mlplat.features.codec import bad_row, decode_head, encode_head, view_prefix
from mlplat.features.definitions import AT, Derived, View
from mlplat.features.events import Events
from mlplat.features.online import Status
from mlplat.features.transform import POLARS_TYPES, derive, instance, row_codec, stored

Blobs = Sequence[bytes | None]
_NEVER_US = 2**62
"""The time of an entity without a blob: after every t."""


class RowPlan:
    """Of a view on the newest row. With `keep` a row that has expired gives its values, and says so; else it gives nulls."""

    few = 8
    """Up to so many entities are read one by one: for them the making of arrays takes longer."""

    def __init__(self, view: View, *, keep: bool = False) -> None:
        self.layout = Layout(view.ref)
        self.prefix = view_prefix(view.name, view.version)
        self._ttl_us = view.ttl_us
        self._keep = keep
        self._nothing = MISSING if keep else EXPIRED
        """Rows of this code and above have no values."""
        self._codec = row_codec(view)
        order = [f.name for f in stored(view)]
        self._slots = [order.index(f.name) if f.column is not None else None for f in view.rows]
        self._width = 2 if view.source.created is None else 3
        self._body = 8 * self._width
        self._absent = encode_head([_NEVER_US] * self._width) + self._codec.encode([None] * len(order))
        # The word of a blob in which each feature is; a text is in none, and an age is the time's until it is computed.
        places = {slot: self._width + i for i, slot in enumerate(self._codec.numbers)}
        self._words = np.array([0 if slot is None else places.get(slot, 0) for slot in self._slots], dtype=np.int64)
        # The bit of its null mask; an age has none, and is never null where there is a row.
        self._bits = np.array([-1 if slot is None else slot for slot in self._slots], dtype=np.int64)
        self._ages = [i for i, slot in enumerate(self._slots) if slot is None]
        self._plain = not self._ages and not self._codec.texts

    def row(self, blob: bytes | None, at_us: int) -> tuple[list[Any], Status]:
        """The features of one entity: what `block` gives, faster for few."""
        head = () if blob is None else decode_head(blob, self._width)
        if blob is None or max(head[:-1]) > at_us:
            return [None] * len(self._slots), "missing"
        expired = self._ttl_us is not None and at_us - head[0] > self._ttl_us
        if expired and not self._keep:
            return [None] * len(self._slots), "expired"
        row = self._codec.decode(blob, self._body)
        if self._ages:
            age_s = float(at_us - head[0]) / US_PER_S  # first a float, as numpy does offline
            row = [age_s if slot is None else row[slot] for slot in self._slots]
        return row, "expired" if expired else "ok"

    def block(self, blobs: Blobs, at_us: Ints) -> Block:
        """Of all entities at once. `at_us` is one moment, or one for each."""
        words = self._matrix(blobs)
        codes = self._codes(words, at_us)
        numbers = words[:, self._width : self._width + len(self._slots)] if self._plain else words[:, self._words]
        for i in self._ages:
            numbers.view(np.float64)[:, i] = (at_us - words[:, 0]) / US_PER_S
        return Block(
            layout=self.layout,
            codes=codes,
            numbers=numbers,
            null=self._nulls(words, codes),
            texts=self._texts(blobs, codes) if self._codec.texts else {},
        )

    def _matrix(self, blobs: Blobs) -> Ints:
        """The heads, numbers and masks, one row for each blob; of none, those of nothing."""
        size = self._body + self._codec.fixed_bytes
        whole: Any = blobs  # bytes, unless joining finds a None
        try:
            joined = b"".join(whole)
        except TypeError:
            whole = [self._absent if blob is None else blob for blob in blobs]
            joined = b"".join(whole)
        if self._codec.texts:
            joined = b"".join(blob[:size] for blob in whole)
        if len(joined) != size * len(whole):
            raise bad_row(
                next(blob for blob in whole if len(blob) < size or (not self._codec.texts and len(blob) > size))
            )
        return np.frombuffer(joined, dtype=np.int64).reshape(len(whole), size // 8)

    def _codes(self, words: Ints, at_us: Ints) -> Codes:
        unknown = (words[:, : self._width - 1] > at_us[..., None]).any(axis=1)
        codes: Codes = np.multiply(unknown, MISSING, dtype=np.uint8)
        if self._ttl_us is not None:
            codes[~unknown & (at_us - words[:, 0] > self._ttl_us)] = EXPIRED
        return codes

    def _nulls(self, words: Ints, codes: Codes) -> Mask | None:
        masks = words[:, words.shape[1] - self._codec.words :]
        null: Mask | None = None
        if masks.any():
            bits = np.unpackbits(np.ascontiguousarray(masks).view(np.uint8), axis=1, bitorder="little").astype(bool)
            null = np.pad(bits, ((0, 0), (0, 1)))[:, self._bits]
        if (absent := codes >= self._nothing).any():
            null = np.zeros((len(codes), len(self._slots)), dtype=bool) if null is None else null
            null[absent] = True
        return null

    def _texts(self, blobs: Blobs, codes: Codes) -> dict[int, list[str | None]]:
        found: dict[int, list[str | None]] = {slot: [] for slot in self._codec.texts}
        for blob, code in zip(blobs, codes.tolist(), strict=True):
            row = None if blob is None or code >= self._nothing else self._codec.decode(blob, self._body)
            for slot, values in found.items():
                values.append(None if row is None else row[slot])
        return {self._slots.index(slot): values for slot, values in found.items()}


class WindowPlan:
    """Of a view with windows."""

    few = 2

    def __init__(self, view: View) -> None:
        self.layout = Layout(view.ref)
        self.prefix = view_prefix(view.name, view.version)
        self._view = view
        self._columns = view.value_columns()
        self._versions = view.source.created is not None
        self._lengths = sorted({w.window_us for w in view.windows})
        self._nothing = Events.empty(len(self._columns), versions=self._versions)
        # Where a window ends, as a moment: an event at the end is outside it, unless `closed` is both.
        self._end = 1 if view.closed == "both" else 0

    def row(self, blob: bytes | None, at_us: int) -> tuple[list[Any], Status]:
        """The features of one entity: what `block` gives, faster for few."""
        events = self._events(blob, at_us)
        begins = [windows.lower(at_us, length, self._view.tile_us) for length in self._lengths]
        if begins[-1] < events.since_us:
            return [None] * len(self._view.windows), "missing"  # the store no longer has the whole window
        places = events.times.searchsorted([*begins, at_us + self._end])
        bounds = {length: (places[i : i + 1], places[-1:]) for i, length in enumerate(self._lengths)}
        held = dict(zip(self._columns, events.values, strict=True))
        values = [column.item() for column in windows.columns(self._view.windows, held, bounds).values()]
        return [None if value != value else value for value in values], "missing" if blob is None else "ok"

    def block(self, blobs: Blobs, at_us: Ints) -> Block:
        """Of all entities at once: their events behind one another, and the windows over all of them."""
        moments = np.broadcast_to(at_us, len(blobs))
        begins = [windows.lower(moments, length, self._view.tile_us) for length in self._lengths]
        points = np.column_stack([*begins, moments + self._end])
        held = [self._events(blob, at) for blob, at in zip(blobs, moments.tolist(), strict=True)]
        starts = np.cumsum([0, *(len(events.times) for events in held[:-1])])
        found = [events.times.searchsorted(moment) for events, moment in zip(held, points, strict=True)]
        places = np.array(found, dtype=np.int64).reshape(points.shape)
        places += starts[: len(held), None]
        bounds = {length: (places[:, i], places[:, -1]) for i, length in enumerate(self._lengths)}
        values = {
            name: np.concatenate([events.values[i] for events in held]) if held else np.empty(0)
            for i, name in enumerate(self._columns)
        }
        computed = windows.columns(self._view.windows, values, bounds)
        # A blob that no longer has the whole of the longest window says nothing.
        partial = points[:, -2] < [events.since_us for events in held]
        absent = np.array([blob is None for blob in blobs], dtype=bool)
        return self._block(computed, partial, np.where(partial | absent, MISSING, OK).astype(np.uint8))

    def _events(self, blob: bytes | None, at_us: int) -> Events:
        if blob is None:
            return self._nothing
        return Events.decode(blob, len(self._columns), versions=self._versions).known(at_us)

    def _block(self, computed: Mapping[str, Floats | Ints], partial: Mask, codes: Codes) -> Block:
        numbers = np.empty((len(codes), len(computed)), dtype=np.int64)
        null = np.zeros(numbers.shape, dtype=bool)
        for i, column in enumerate(computed.values()):
            if column.dtype == np.int64:
                numbers[:, i] = column
            else:
                numbers[:, i] = column.view(np.int64)
                null[:, i] = np.isnan(column)
        null[partial] = True
        return Block(layout=self.layout, codes=codes, numbers=numbers, null=null if null.any() else None, texts={})


class DerivedPlan:
    """Of a view that is computed when it is read."""

    def __init__(self, view: Derived, parents: Sequence[AnyPlan]) -> None:
        self.layout = Layout(view.ref)
        self.parents = tuple(parents)
        self._view = view
        self._transform = instance(view)
        self._request = {f.name: f for f in view.request}
        self._calling = threading.Lock()  # user code need not be thread-safe

    def block(self, parents: Sequence[Block], keys: Mapping[str, Sequence[Any]], at_us: Ints) -> Block:
        given = self._given(parents, keys, at_us)
        assert self._transform is not None
        with self._calling:
            made = derive(self._view, self._transform, given)
        codes = np.maximum.reduce([np.zeros(given.height, dtype=np.uint8), *(block.codes for block in parents)])
        return Block.of_frame(self.layout, made, codes)

    def _given(self, parents: Sequence[Block], keys: Mapping[str, Sequence[Any]], at_us: Ints) -> pl.DataFrame:
        columns = [self._key(name, keys[name]) for name in self._view.keys]
        for block in parents:
            columns += [block.series(i).alias(name) for i, name in enumerate(block.layout.columns)]
        moments = np.broadcast_to(at_us, len(columns[0])).copy()
        return pl.DataFrame([*columns, pl.Series(AT, moments).cast(POLARS_TYPES["timestamp"])])

    def _key(self, name: str, values: Sequence[Any]) -> pl.Series:
        field = self._request.get(name)
        if field is None:
            return pl.Series(name, values)
        try:
            return pl.Series(name, values, dtype=POLARS_TYPES[field.dtype])
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise InvalidInput(
                f"request field {name!r} is {field.dtype}, and came as something else: {error}"
            ) from None


StoredPlan = RowPlan | WindowPlan
AnyPlan = RowPlan | WindowPlan | DerivedPlan


def stored_plan(view: View, *, keep: bool = False) -> StoredPlan:
    """What a window holds never expires: there `keep` changes nothing."""
    return WindowPlan(view) if view.windows else RowPlan(view, keep=keep)
