"""What is served, as the home remembers it: it outlives the cluster, and a replica that restarts reads its share
from here.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mlplat.errors import Corrupt, InvalidInput, unknown
from mlplat.serve.http import LIMITS, BodyLimits
from mlplat.serve.policy import FeaturePolicy
from mlplat.serve.routing import GOLD, Arm, Ranges, RoutingTable, with_share

Role = Literal["experiment", "shadow", "kept"]
KEPT: Role = "kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A version beside gold: an experiment with a share of the units, a shadow that is shown a share, or one that is kept
    ready to come back. `compute` is what its own processes ask for (as `Demand.parse` takes it); None: it runs in that of
    the endpoint."""

    name: str
    role: Role
    version: int
    digest: str
    path: str
    share: float = 0.0
    compute: Mapping[str, Any] | None = None
    ranges: Ranges = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name: which version is gold, where its artifact is, at which URL, in which life of which cluster, and who else there
    is. `objective` as `Objective.parse` takes it."""

    name: str
    version: int
    digest: str
    path: str
    url: str
    cluster: str
    epoch: int = 0
    compute: Mapping[str, Any] | None = None
    cache_bytes: int = 0
    policy: FeaturePolicy = field(default_factory=FeaturePolicy)
    body: BodyLimits = LIMITS
    objective: str | None = None
    others: tuple[Member, ...] = ()

    def table(self) -> RoutingTable:
        """`InvalidInput` if the experiments' shares are more than all."""
        experiments = [_arm(m) for m in self.others if m.role == "experiment"]
        gold = Arm(name=GOLD, version=self.version, share=max(0.0, 1.0 - sum(arm.share for arm in experiments)))
        mirrors = tuple(_arm(m) for m in self.others if m.role == "shadow")
        return RoutingTable(epoch=self.epoch, salt=self.name, arms=(gold, *experiments), mirrors=mirrors)

    def members(self) -> tuple[Member, ...]:
        """All versions, gold first."""
        gold = Member(
            name=GOLD,
            role="kept",
            version=self.version,
            digest=self.digest,
            path=self.path,
            share=1.0,
            compute=self.compute,
        )
        return (gold, *self.others)

    def with_gold(self, member: Member) -> Entry:
        """`member` is gold from now on, and what was gold before is kept ready, alone of those that are."""
        kept = replace(self.members()[0], name=KEPT, share=0.0)
        others = [m for m in self.others if m.role != "kept" and m.version != member.version]
        others += [kept] if kept.version != member.version else [m for m in self.others if m.role == "kept"]
        return replace(
            self,
            version=member.version,
            digest=member.digest,
            path=member.path,
            compute=member.compute,
            others=tuple(others),
        )

    def with_member(self, member: Member) -> Entry:
        """In the place of who has its name."""
        if member.version == self.version:
            raise InvalidInput(f"version {member.version} of {self.name!r} is gold already")
        if member.name == KEPT:
            raise InvalidInput(f"an arm is not called {KEPT!r}: that is the version that was gold before")
        others = [
            m for m in self.others if m.name != member.name and not (m.role == "kept" and m.version == member.version)
        ]
        if member.role == "experiment":
            before = next((m.ranges for m in self.others if m.name == member.name), ())
            taken = [m.ranges for m in others if m.role == "experiment"]
            member = replace(member, ranges=with_share(before, member.share, taken))
        entry = replace(self, others=(*others, member))
        entry.table()
        return entry

    def without(self, name: str) -> Entry:
        """`NotFound` if nobody has the name."""
        if name not in {m.name for m in self.others if m.role != "kept"}:
            raise unknown(
                f"experiment or shadow of {self.name!r}", name, [m.name for m in self.others if m.role != "kept"]
            )
        return replace(self, others=tuple(m for m in self.others if m.name != name))


def _arm(member: Member) -> Arm:
    return Arm(name=member.name, version=member.version, share=member.share, ranges=member.ranges)


def read(home: Path) -> dict[str, Entry]:
    """All entries by name. `Corrupt` if the file is not what was written."""
    try:
        text = _path(home).read_text()
    except FileNotFoundError:
        return {}
    try:
        return {name: _entry(**entry) for name, entry in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, InvalidInput) as error:
        raise Corrupt(f"{_path(home)} is not what was written ({error}). Remove it and serve again.") from None


def _entry(
    *,
    others: Iterable[Mapping[str, Any]] = (),
    policy: Mapping[str, Any] | None = None,
    body: Mapping[str, Any] | None = None,
    **values: Any,
) -> Entry:
    return Entry(
        **values,
        policy=FeaturePolicy(**policy or {}),
        body=BodyLimits(**body or {}),
        others=tuple(_member(**other) for other in others),
    )


def _member(*, ranges: Iterable[Sequence[float]] = (), **values: Any) -> Member:
    return Member(**values, ranges=tuple((low, high) for low, high in ranges))


def put(home: Path, entry: Entry) -> Entry:
    """Record it with the next epoch of its name, and return it so."""
    with _changing(home) as entries:
        before = entries.get(entry.name)
        entries[entry.name] = replace(entry, epoch=1 if before is None else before.epoch + 1)
        return entries[entry.name]


def restore(home: Path, name: str, before: Entry | None) -> None:
    """Undo a `put` that could not be carried out."""
    with _changing(home) as entries:
        entries.pop(name, None)
        if before is not None:
            entries[name] = before


def remove(home: Path, name: str) -> None:
    restore(home, name, None)


@contextmanager
def _changing(home: Path) -> Iterator[dict[str, Entry]]:
    """Read, change, write atomically; one process at a time."""
    home.mkdir(parents=True, exist_ok=True)
    with _path(home).with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = read(home)
        yield entries
        _write(home, entries)


def _write(home: Path, entries: Mapping[str, Entry]) -> None:
    draft = _path(home).with_suffix(".draft")
    draft.write_text(json.dumps({name: asdict(entry) for name, entry in entries.items()}, indent=1))
    draft.replace(_path(home))


def _path(home: Path) -> Path:
    return home / "endpoints.json"
