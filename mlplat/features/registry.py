"""The register of sources and view versions: one JSON file for each, so that any process of the machine can read it.

A version's file never changes what makes a value; what people say of it (owner, tags, description) is that of the last
file. A version is live, and kept fresh, until it is retired.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from mlplat.disk import write_atomically
from mlplat.errors import Refused, unknown
from mlplat.features.definitions import AnyView, Source, View, view_from_json
from mlplat.features.tables import locked


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewVersion:
    """A view as it was applied: its definition, without the transform's object, and when (microseconds UTC)."""

    view: AnyView
    version: str
    applied_at_us: int
    retired: bool = False


class Registry:
    """Sources by name; view versions by name in the order in which they were applied. The newest is the current one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders = (str(root / "views"), str(root / "retired"))  # text: a push looks there

    def put_source(self, source: Source) -> None:
        """Refused if another source has the name. What people say of it may change."""
        path = self._root / "sources" / f"{source.name}.json"
        raw = orjson.dumps(source.to_json(), option=orjson.OPT_INDENT_2)
        with locked(self._root / "lock"):
            if not self.has_source(source) or path.read_bytes() != raw:
                write_atomically(path, raw)

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

    def delete_source(self, name: str) -> None:
        (self._root / "sources" / f"{name}.json").unlink(missing_ok=True)

    def put_view(self, view: AnyView, *, now_us: int) -> bool:
        """Make it the current version; False if it is already, and nothing is said anew. A retired one is live again."""
        value = view.to_json()
        with locked(self._root / "lock"):
            self._retired(view.name, view.version).unlink(missing_ok=True)
            files = self._files(view.name)
            newest = orjson.loads(files[-1].read_bytes()) if files else None
            if newest is not None and newest["version"] == view.version:
                if newest["view"] == value:
                    return False
                now_us = newest["applied_at_us"]
            record = {"version": view.version, "applied_at_us": now_us, "view": value}
            name = f"{view.name}.{len(files) + 1:06d}.{view.version}.json"
            write_atomically(self._root / "views" / name, orjson.dumps(record, option=orjson.OPT_INDENT_2))
        return True

    def retire(self, name: str, version: str, *, now_us: int) -> None:
        """The version stays in the history and is not kept fresh any more."""
        write_atomically(self._retired(name, version), orjson.dumps({"retired_at_us": now_us}))

    def views(self) -> list[str]:
        return sorted({path.name.split(".")[0] for path in (self._root / "views").glob("*.json")})

    def history(self, name: str) -> list[ViewVersion]:
        """In the order in which they were applied, oldest first; empty if the name is unknown."""
        entries: list[ViewVersion] = []
        for path in self._files(name):
            entry = self._entry(path)
            if entries and entries[-1].version == entry.version:
                entries.pop()
            entries.append(entry)
        return entries

    def view(self, name: str, version: str | None = None) -> AnyView:
        """The current version, or the one asked for. `NotFound` with the near names; `Refused` if it is retired."""
        history = self.history(name)
        if not history:
            raise unknown("view", name, self.views(), remedy="Views are added with platform.features.apply(view).")
        live = [entry for entry in history if not entry.retired]
        if version is None and not live:
            raise Refused(f"every version of view {name!r} is retired; apply one to use it again")
        for entry in reversed(history):
            if entry.version == (version or live[-1].version):
                if entry.retired:
                    raise Refused(f"version {version} of view {name!r} is retired; apply it to use it again")
                return entry.view
        raise unknown(f"version of view {name!r}", str(version), [entry.version for entry in history])

    def live(self) -> list[AnyView]:
        """Every version of every view that is not retired, each once."""
        found = {e.version: e.view for name in self.views() for e in self.history(name) if not e.retired}
        return list(found.values())

    def live_on(self, source: str) -> list[View]:
        """The live versions of the views on a source."""
        return [view for view in self.live() if isinstance(view, View) and view.source.name == source]

    def stamp(self) -> frozenset[str]:
        """Changes whenever a view is applied or retired: what a cache of `live_on` compares."""
        return frozenset(_listed(self._folders[0]) + _listed(self._folders[1]))

    def _files(self, name: str) -> list[Path]:
        return sorted((self._root / "views").glob(f"{glob.escape(name)}.*.json"))

    def _retired(self, name: str, version: str) -> Path:
        return self._root / "retired" / f"{name}@{version}.json"

    def _entry(self, path: Path) -> ViewVersion:
        raw = orjson.loads(path.read_bytes())
        view = view_from_json(raw["view"])
        retired = self._retired(view.name, raw["version"]).exists()
        return ViewVersion(view=view, version=raw["version"], applied_at_us=raw["applied_at_us"], retired=retired)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _spell(source: Source) -> str:
    given = {**source.identity(), "key": "+".join(source.key)}
    return ", ".join(f"{name}={value}" for name, value in given.items() if name != "name")
