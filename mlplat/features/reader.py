"""Reading features online: the blobs of a request's entities, as of its moment, by the pinned definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlplat.clock import US_PER_S
from mlplat.features import windows
from mlplat.features.codec import ROW_BODY, Events, decode_row_head, entity_key
from mlplat.features.definitions import View
from mlplat.features.lmdb_store import LmdbStore
from mlplat.features.online import FeatureReader, OnlineRows, Status
from mlplat.features.registry import Registry
from mlplat.features.transform import row_codec, stored
from mlplat.model.signature import FeatureRef

Found = tuple[list[Any], Status]


class _Plan(Protocol):
    """Makes a view's features of an entity's blob."""

    view: View

    def values(self, blob: bytes, at_us: int) -> Found: ...

    def absent(self) -> list[Any]:
        """What an entity without data gets: a count is 0, all else null."""


class _RowPlan:
    def __init__(self, view: View) -> None:
        self.view = view
        self._codec = row_codec(view)
        order = [f.name for f in stored(view)]
        self._slots = [order.index(f.name) if f.column is not None else None for f in view.rows]

    def values(self, blob: bytes, at_us: int) -> Found:
        time_us, _ = decode_row_head(blob)
        if time_us > at_us:
            return self.absent(), "missing"
        if self.view.ttl_us is not None and at_us - time_us > self.view.ttl_us:
            return self.absent(), "expired"
        row = self._codec.decode(blob, ROW_BODY)
        age_s = float(at_us - time_us) / US_PER_S  # first a float, as numpy does offline
        return [age_s if slot is None else row[slot] for slot in self._slots], "ok"

    def absent(self) -> list[Any]:
        return [None] * len(self.view.rows)


class _WindowPlan:
    def __init__(self, view: View) -> None:
        self.view = view
        self._columns = view.value_columns()
        self._lengths = np.array(sorted({w.window_us for w in view.windows}), dtype=np.int64)

    def values(self, blob: bytes, at_us: int) -> Found:
        events = Events.decode(blob, len(self._columns))
        if at_us - self.view.span_us < events.since_us:
            return [None] * len(self.view.windows), "missing"  # the store no longer has the whole window
        times = events.times
        lows = times.searchsorted(at_us - self._lengths, side="left")
        hi = times.searchsorted([at_us], side="left")
        bounds = {int(length): (lows[i : i + 1], hi) for i, length in enumerate(self._lengths)}
        held = dict(zip(self._columns, events.values, strict=True))
        computed = windows.columns(self.view.windows, held, bounds)
        return [_plain(computed[w.name][0]) for w in self.view.windows], "ok"

    def absent(self) -> list[Any]:
        return [0 if w.aggregate == "count" else None for w in self.view.windows]


def _plain(value: Any) -> int | float | None:
    plain: int | float = value.item()
    return None if plain != plain else plain


class OnlineFeatures:
    """The reader over an online store. Definitions are looked up once per version: versions never change."""

    def __init__(self, store: LmdbStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._plans: dict[tuple[str, str], _Plan] = {}

    def read(self, refs: Sequence[FeatureRef], keys: Mapping[str, Sequence[Any]], at_us: Sequence[int]) -> OnlineRows:
        plans = [self._plan(ref) for ref in refs]
        wanted: list[bytes] = []
        for ref in refs:
            entities = zip(*(keys[key] for key in ref.keys), strict=True)
            wanted += [entity_key(ref.view, ref.version, entity) for entity in entities]
        blobs = self._store.get(wanted)
        columns: dict[str, list[Any]] = {}
        status: dict[str, list[Status]] = {}
        for i, (ref, plan) in enumerate(zip(refs, plans, strict=True)):
            rows = [
                plan.values(blob, at) if blob is not None else (plan.absent(), "missing")
                for blob, at in zip(blobs[i * len(at_us) : (i + 1) * len(at_us)], at_us, strict=True)
            ]
            status[ref.view] = [found[1] for found in rows]
            for j, column in enumerate(ref.columns()):
                columns[column] = [found[0][j] for found in rows]
        return OnlineRows(columns=columns, status=status)

    def close(self) -> None:
        self._store.close()

    def _plan(self, ref: FeatureRef) -> _Plan:
        key = (ref.view, ref.version)
        if key not in self._plans:
            view = self._registry.view(ref.view, ref.version)
            assert isinstance(view, View)
            self._plans[key] = _WindowPlan(view) if view.windows else _RowPlan(view)
        return self._plans[key]


def open_reader(home: Path) -> FeatureReader:
    """A reader of a home, in any process of the machine. It writes nothing."""
    return OnlineFeatures(LmdbStore(home / "online"), Registry(home / "features"))
