"""Reading features online: the blobs of a request's entities, as of its moment, by the pinned definitions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlplat.errors import InvalidInput
from mlplat.features.block import Block, Ints, Retrieved
from mlplat.features.codec import entity_keys
from mlplat.features.definitions import Derived
from mlplat.features.lmdb_store import LmdbStore
from mlplat.features.online import FeatureReader, OnlineRows, OnlineStore, Status
from mlplat.features.plans import AnyPlan, DerivedPlan, StoredPlan, stored_plan
from mlplat.features.redis_store import RedisStore
from mlplat.features.registry import Registry
from mlplat.home import home_id
from mlplat.model.signature import FeatureRef

Keys = Mapping[str, Sequence[Any]]


class OnlineFeatures:
    """The reader over an online store. Definitions are looked up once per version: versions never change."""

    def __init__(self, store: OnlineStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._plans: dict[tuple[str, str, bool], AnyPlan] = {}

    def read(
        self, refs: Sequence[FeatureRef], keys: Keys, at_us: Sequence[int], keep: Collection[str] = ()
    ) -> OnlineRows:
        plans = [self.plan(ref.view, ref.version, keep=ref.view in keep) for ref in refs]
        blobs = self._blobs(plans, keys)
        columns: dict[str, Sequence[Any]] = {}
        status: dict[str, Sequence[Status]] = {}
        blocks: _Blocks | None = None
        for plan in plans:
            layout = plan.layout
            if not isinstance(plan, DerivedPlan) and len(at_us) <= plan.few:
                rows = [plan.row(blob, at) for blob, at in zip(blobs[plan], at_us, strict=True)]
                status[layout.ref.view] = [found for _, found in rows]
                columns.update(zip(layout.columns, _turned([row for row, _ in rows]), strict=True))
            else:
                blocks = blocks or _Blocks(blobs, keys, np.array(at_us, dtype=np.int64))
                block = blocks.of(plan)
                status[layout.ref.view] = block.status
                columns.update((column, block.values(i)) for i, column in enumerate(layout.columns))
        return OnlineRows(columns=columns, status=status)

    def retrieve(self, plans: Sequence[AnyPlan], keys: Keys, at_us: int, *, qualified: bool) -> Retrieved:
        """Features of many entities at one moment."""
        made = _Blocks(self._blobs(plans, keys), keys, np.array(at_us, dtype=np.int64))
        return Retrieved(keys=keys, blocks=tuple(map(made.of, plans)), qualified=qualified, at_us=at_us)

    def prepare(self, refs: Sequence[FeatureRef], keep: Collection[str] = ()) -> None:
        for ref in refs:
            self.plan(ref.view, ref.version, keep=ref.view in keep)

    def plan(self, view: str, version: str, *, keep: bool = False) -> AnyPlan:
        """`NotFound` if the version is not registered. With `keep` a derived view is made of what its parents keep."""
        key = (view, version, keep)
        if key not in self._plans:
            found = self._registry.view(view, version)
            self._plans[key] = (
                DerivedPlan(found, [self.plan(ref.view, ref.version, keep=keep) for ref in found.parents])
                if isinstance(found, Derived)
                else stored_plan(found, keep=keep)
            )
        return self._plans[key]

    def close(self) -> None:
        self._store.close()

    def _blobs(self, plans: Sequence[AnyPlan], keys: Keys) -> dict[StoredPlan, list[bytes | None]]:
        """Of every view that is read, the parents of derived ones too: one look into the store."""
        needed: dict[StoredPlan, None] = {}
        _stored(plans, needed)
        wanted: list[bytes] = []
        for plan in needed:
            wanted += entity_keys(plan.prefix, [keys[key] for key in plan.layout.ref.keys])
        found = self._store.get(wanted)
        rows = len(wanted) // len(needed) if needed else 0
        return {plan: found[i * rows : (i + 1) * rows] for i, plan in enumerate(needed)}


def _stored(plans: Sequence[AnyPlan], needed: dict[StoredPlan, None]) -> None:
    for plan in plans:
        if isinstance(plan, DerivedPlan):
            _stored(plan.parents, needed)
        else:
            needed[plan] = None


def _turned(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows as columns."""
    return [[value] for value in rows[0]] if len(rows) == 1 else [list(values) for values in zip(*rows, strict=True)]


class _Blocks:
    """The blocks of one read, each made once."""

    def __init__(self, blobs: Mapping[StoredPlan, list[bytes | None]], keys: Keys, at_us: Ints) -> None:
        self._blobs = blobs
        self._keys = keys
        self._at_us = at_us
        self._made: dict[AnyPlan, Block] = {}

    def of(self, plan: AnyPlan) -> Block:
        if plan not in self._made:
            if isinstance(plan, DerivedPlan):
                parents = [self.of(parent) for parent in plan.parents]
                self._made[plan] = plan.block(parents, self._keys, self._at_us)
            else:
                self._made[plan] = plan.block(self._blobs[plan], self._at_us)
        return self._made[plan]


def open_store(home: Path, online: str | None) -> OnlineStore:
    """The online store of a home: the embedded one, or its part of the server at a URL."""
    return LmdbStore(home / "online") if online is None else RedisStore(online, space=home_id(home))


def open_reader(home: Path, online: str | None = None) -> FeatureReader:
    """A reader of a home, in any process of the machine (of any machine, where `online` is a server's URL). It writes
    nothing."""
    return OnlineFeatures(open_store(home, online), Registry(home / "features"))


def entities_of(refs: Sequence[FeatureRef], keys: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The keys that these views need, as lists of Python's values."""
    entities: dict[str, list[Any]] = {}
    for ref in refs:
        for key in ref.keys:
            if key not in keys:
                raise InvalidInput(f"view {ref.view!r} is keyed by {', '.join(ref.keys)}; {key!r} is not given")
            if key not in entities:
                entities[key] = _listed(key, keys[key])
    lengths = {len(values) for values in entities.values()}
    if len(lengths) > 1:
        named = " and ".join(repr(ref.view) for ref in refs)
        raise InvalidInput(f"the keys of view {named} differ in length: {sorted(lengths)}")
    return entities


def _listed(key: str, values: Any) -> list[Any]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise InvalidInput(f"key {key!r}: give a list of entities, as in {{{key!r}: [{values!r}]}}")
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
