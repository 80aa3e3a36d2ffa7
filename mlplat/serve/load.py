"""From a record of what is served to models that are ready for the first request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlplat.clock import Clock
from mlplat.errors import Corrupt
from mlplat.model import artifact
from mlplat.model.model import Model
from mlplat.serve.backbone import Backbone, Coalesced
from mlplat.serve.cache import Cache
from mlplat.serve.objective import Objective
from mlplat.serve.remembered import Values
from mlplat.serve.served import Served, Version
from mlplat.serve.shared import Share
from mlplat.serve.state import Entry, Member

Connect = Callable[[str, Member], Backbone]
"""The backbone of a member of a name that has processes of its own."""


def load(
    entry: Entry, connect: Connect, clock: Clock, before: Served | None = None, shared: Share | None = None
) -> Served:
    """All versions of a name, ready: those in this process read and warmed, those of other processes connected. What
    `before` has already is taken from there."""
    same = before is not None and before.cache_bytes == entry.cache_bytes
    known = before.versions if before is not None and same else {}
    if before is not None and same:
        cache = before.cache
    else:
        cache = Cache(max_bytes=entry.cache_bytes, clock=clock) if entry.cache_bytes else None
    versions = [
        _kept(known.get(m.version), m) or _version(entry.name, m, connect, cache, shared) for m in entry.members()
    ]
    objective = None if entry.objective is None else Objective.parse(entry.objective)
    served = Served.of(
        entry.name,
        entry.table(),
        versions,
        cache=cache,
        cache_bytes=entry.cache_bytes,
        policy=entry.policy,
        body=entry.body,
        objective=objective,
    )
    for arm in served.table.arms:
        backbone = served.versions[arm.version].backbone
        if isinstance(backbone, Coalesced):
            backbone.aim(None if objective is None else objective.limit_us / 1e6, clock)
    return served


def ready(path: str, digest: str) -> Model:
    """Read an artifact, warm it with its golden rows and compare the answers with those of the day it was made.

    `Corrupt` if they differ: then this machine would not give the answers that were tested.
    """
    import torch

    torch.set_num_threads(1)  # one loop, one thread: more would only wait for one another on rows this few
    found = artifact.load(Path(path), digest=digest, trusted=True)
    difference = found.golden.difference(found.model)
    if not difference <= artifact.GOLDEN_TOLERANCE:
        raise Corrupt(f"{path}: answers the golden rows {difference:g} away from what it answered when it was made.")
    return found.model


def _version(name: str, member: Member, connect: Connect, cache: Cache[Values] | None, shared: Share | None) -> Version:
    if member.compute is None:
        return Version.of(member.version, ready(member.path, member.digest), cache=cache)
    model = artifact.load(Path(member.path), digest=member.digest, trusted=True).model
    cache = None if member.role == "shadow" else cache
    return Version.of(member.version, model, connect(name, member), cache=cache, shared=shared, compute=member.compute)


def _kept(known: Version | None, member: Member) -> Version | None:
    same = known is not None and known.digest == member.digest and known.compute == member.compute
    return known if same else None
