"""What features there are, who uses them, and what they are made of: so that nothing is built twice, and nothing that is in
use is retired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mlplat.errors import Refused
from mlplat.features.definitions import AnyView, Derived, View
from mlplat.features.registry import Registry
from mlplat.model.signature import FeatureRef, Field


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """A registered model, and the training set that it was made of."""

    name: str
    version: int
    snapshot: str


Models = Callable[[], Iterable[ModelUse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A view in the catalogue. `kind` is windows, newest row, transform or derived; `versions` are the live ones."""

    name: str
    kind: str
    version: str
    versions: tuple[str, ...]
    keys: tuple[str, ...]
    features: tuple[Field, ...]
    reads: tuple[str, ...]
    """Its source, or the views that it derives from."""
    description: str
    owner: str
    tags: tuple[str, ...]
    tolerance: float | None
    applied_at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Who stands on a view: training sets as `name@snapshot`, models as `name@1`, derived views as `name@version`."""

    training_sets: tuple[str, ...]
    models: tuple[str, ...]
    views: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.training_sets or self.models or self.views)

    def __str__(self) -> str:
        kinds = (("model", self.models), ("view", self.views), ("training set", self.training_sets))
        return "; ".join(f"{kind}{'s' * (len(names) > 1)} {', '.join(names)}" for kind, names in kinds if names)


class Catalogue:
    """Reads the register and the training sets of a home. `models` is asked only where models matter: it is slow."""

    def __init__(self, registry: Registry, training_sets: Path, models: Models) -> None:
        self._registry = registry
        self._training_sets = training_sets
        self._models = models

    def search(
        self, text: str = "", *, owner: str | None = None, tag: str | None = None, entity: str | None = None
    ) -> list[Entry]:
        """The views whose name, features, source or description have the words of the text; all without one."""
        words = text.lower().split()
        entries = (entry for name in self._registry.views() if (entry := self.entry(name)) is not None)
        return [
            entry
            for entry in entries
            if all(word in _searched(entry) for word in words)
            and owner in (None, entry.owner)
            and (tag is None or tag in entry.tags)
            and (entity is None or entity in entry.keys)
        ]

    def entry(self, name: str) -> Entry | None:
        """The current version of a view; None if all are retired."""
        live = [version for version in self._registry.history(name) if not version.retired]
        if not live:
            return None
        view = live[-1].view
        return Entry(
            name=name,
            kind=_kind(view),
            version=view.version,
            versions=tuple(dict.fromkeys(version.version for version in live)),
            keys=view.keys,
            features=view.fields,
            reads=_reads(view),
            description=view.description,
            owner=view.about.owner,
            tags=view.about.tags,
            tolerance=view.tolerance,
            applied_at_us=live[-1].applied_at_us,
        )

    def users(self, name: str, *, version: str | None = None, feature: str | None = None) -> Users:
        """Who uses a view: any version of it or one, and all of it or one feature."""
        views = [
            view
            for view in self._registry.live()
            if isinstance(view, Derived) and any(_names(ref, name, version, feature) for ref in view.parents)
        ]
        pinned = [raw for raw in self._pins() if any(_names(ref, name, version, feature) for ref in _refs(raw))]
        snapshots = {(raw["name"], raw["snapshot"]) for raw in pinned}
        models = [m for m in self._models() if (m.name, m.snapshot) in snapshots] if snapshots else []
        return Users(
            training_sets=tuple(f"{raw['name']}@{raw['snapshot']}" for raw in pinned),
            models=tuple(f"{m.name}@{m.version}" for m in models),
            views=tuple(f"{view.name}@{view.version}" for view in views),
        )

    def refuse_if_used(self, name: str, version: str) -> None:
        """Raises `Refused` with the list of the users."""
        if users := self.users(name, version=version):
            raise Refused(f"version {version} of view {name!r} is in use and stays: {users}")

    def training_sets(self) -> list[tuple[str, str]]:
        """Name and snapshot of each."""
        return [(raw["name"], raw["snapshot"]) for raw in self._pins()]

    def refuse_if_trained(self, name: str, snapshot: str) -> None:
        """Raises `Refused` with the models that were made of a training set."""
        made = [f"{m.name}@{m.version}" for m in self._models() if (m.name, m.snapshot) == (name, snapshot)]
        if made:
            raise Refused(
                f"training set {name}@{snapshot} stays: {', '.join(made)} was made of it, and could not be again"
            )

    def lineage(self, name: str, version: str | None = None) -> dict[str, Any]:
        """What a view is made of, down to the sources: `{"view", "version", "kind", "from": [...]}`, `{"source", ...}` at the
        ends."""
        view = self._registry.view(name, version)
        if isinstance(view, View):
            made_of = [{"source": view.source.name, "key": list(view.source.key), "time": view.source.time}]
        else:
            made_of = [self.lineage(ref.view, ref.version) for ref in view.parents]
            made_of += [{"request": field.name, "dtype": field.dtype} for field in view.request]
        return {"view": name, "version": view.version, "kind": _kind(view), "from": made_of}

    def _pins(self) -> list[dict[str, Any]]:
        return [orjson.loads(path.read_bytes()) for path in sorted(self._training_sets.glob("*/*.json"))]


def _refs(raw: dict[str, Any]) -> Sequence[FeatureRef]:
    return [FeatureRef.from_json(ref) for ref in raw["features"]]


def _names(ref: FeatureRef, view: str, version: str | None, feature: str | None) -> bool:
    return (
        ref.view == view
        and version in (None, ref.version)
        and (feature is None or any(f.name == feature for f in ref.fields))
    )


def _searched(entry: Entry) -> str:
    return " ".join(
        [entry.name, *(f.name for f in entry.features), *entry.reads, entry.description, *entry.tags]
    ).lower()


def _kind(view: AnyView) -> str:
    if isinstance(view, Derived):
        return "derived"
    return "windows" if view.windows else "newest row" if view.code is None else "transform"


def _reads(view: AnyView) -> tuple[str, ...]:
    return (view.source.name,) if isinstance(view, View) else tuple(ref.view for ref in view.parents)
