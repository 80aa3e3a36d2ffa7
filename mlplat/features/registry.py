"""The register of sources and view versions: one immutable JSON file each, so that any process of the machine can
read it."""

from __future__ import annotations

import glob
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import orjson

from mlplat.errors import Refused, unknown
from mlplat.features.definitions import Source, View
from mlplat.features.tables import locked


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewVersion:
    """A view as it was applied: its definition, without the transform's object, and when (microseconds UTC)."""

    view: View
    version: str
    applied_at_us: int


def write_atomically(path: Path, raw: bytes) -> None:
    """The file has its old content or all of the new, whatever happens; and the new survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


class Registry:
    """Sources by name; view versions by name in the order in which they were applied. The newest is the current one."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_source(self, source: Source) -> None:
        """Refused if another source has the name."""
        with locked(self._root / "lock"):
            if not self.has_source(source):
                path = self._root / "sources" / f"{source.name}.json"
                write_atomically(path, orjson.dumps(source.to_json(), option=orjson.OPT_INDENT_2))

    def has_source(self, source: Source) -> bool:
        """Refused if another source has the name."""
        path = self._root / "sources" / f"{source.name}.json"
        if not path.exists():
            return False
        known = Source.from_json(orjson.loads(path.read_bytes()))
        if known != source:
            raise Refused(
                f"source {source.name!r} is registered as {_spell(known)}, and this one is "
                f"{_spell(source)}. Give the new one another name."
            )
        return True

    def sources(self) -> list[str]:
        return sorted(path.stem for path in (self._root / "sources").glob("*.json"))

    def source(self, name: str) -> Source:
        path = self._root / "sources" / f"{name}.json"
        if not path.exists():
            raise unknown("source", name, self.sources())
        return Source.from_json(orjson.loads(path.read_bytes()))

    def put_view(self, view: View, *, now_us: int) -> bool:
        """Add a version; False if the current one is the same. An older one that is applied again becomes current."""
        with locked(self._root / "lock"):
            history = self.history(view.name)
            if history and history[-1].version == view.version:
                return False
            value = {"version": view.version, "applied_at_us": now_us, "view": view.to_json()}
            name = f"{view.name}.{len(history) + 1:06d}.{view.version}.json"
            write_atomically(self._root / "views" / name, orjson.dumps(value, option=orjson.OPT_INDENT_2))
        return True

    def views(self) -> list[str]:
        return sorted({path.name.split(".")[0] for path in (self._root / "views").glob("*.json")})

    def history(self, name: str) -> list[ViewVersion]:
        """Oldest first; empty if the name is unknown."""
        return [_read(path) for path in sorted((self._root / "views").glob(f"{glob.escape(name)}.*.json"))]

    def view(self, name: str, version: str | None = None) -> View:
        """The current version, or the one asked for. `NotFound` with the near names."""
        history = self.history(name)
        if not history:
            raise unknown("view", name, self.views(), remedy="Views are added with platform.features.apply(view).")
        if version is None:
            return history[-1].view
        for entry in history:
            if entry.version == version:
                return entry.view
        raise unknown(f"version of view {name!r}", version, [entry.version for entry in history])

    def current(self, source: str) -> list[View]:
        """The current versions of the views on a source."""
        latest = [self.view(name) for name in self.views()]
        return [view for view in latest if view.source.name == source]

    def stamp(self) -> frozenset[str]:
        """Changes whenever a view is applied: what a cache of `current` compares."""
        try:
            return frozenset(os.listdir(self._root / "views"))
        except FileNotFoundError:
            return frozenset()


def _read(path: Path) -> ViewVersion:
    raw = orjson.loads(path.read_bytes())
    return ViewVersion(view=View.from_json(raw["view"]), version=raw["version"], applied_at_us=raw["applied_at_us"])


def _spell(source: Source) -> str:
    given = {**source.identity(), "key": "+".join(source.key)}
    return ", ".join(f"{name}={value}" for name, value in given.items() if name != "name")
