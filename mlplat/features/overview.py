"""What there is in a feature store: definitions and who uses them, the sources' tables, and who feeds them."""

from __future__ import annotations

from typing import Any

import polars as pl

from mlplat.errors import unknown
from mlplat.features.catalogue import Catalogue, Entry, Users
from mlplat.features.datasets import DataSet, DataSets
from mlplat.features.definitions import AnyView, Source
from mlplat.features.ingestion import Ingestion
from mlplat.features.operations import Operation, Operations
from mlplat.features.producers import ProducerChange, Producers
from mlplat.features.registry import Registry, ViewVersion
from mlplat.features.tables import BATCH, ID
from mlplat.features.view_rows import ViewRows
from mlplat.model.signature import FeatureRef


class Overview:
    """The part of `FeatureStore` that only looks."""

    _registry: Registry
    _catalogue: Catalogue
    _datasets: DataSets
    _operations: Operations
    _ingestion: Ingestion
    _producers: Producers
    _rows: ViewRows

    def operations(self) -> list[Operation]:
        """One for each view version that was ever applied or backfilled here."""
        return self._operations.all()

    def operation(self, id: str) -> Operation:
        return self._operations.get(id)

    def view(self, name: str, version: str | None = None) -> AnyView:
        """A registered definition: the current one, or the version asked for."""
        return self._registry.view(name, version)

    def views(self) -> list[str]:
        return self._registry.views()

    def history(self, name: str) -> list[ViewVersion]:
        """The versions of a view, oldest first."""
        found = self._registry.history(name)
        if not found:
            raise unknown("view", name, self._registry.views())
        return found

    def search(
        self, text: str = "", *, owner: str | None = None, tag: str | None = None, entity: str | None = None
    ) -> list[Entry]:
        """The catalogue: views that have the words of `text` in their name, features, source, description or tags."""
        return self._catalogue.search(text, owner=owner, tag=tag, entity=entity)

    def users(self, view: AnyView | str, *, version: str | None = None, feature: str | None = None) -> Users:
        """The models, training sets and derived views made of a view: of any version or one, of all of it or one feature."""
        name = name_of(view)
        self._registry.view(name, version)
        if feature is not None and all(f.name != feature for v in self.history(name) for f in v.view.fields):
            raise unknown(f"feature of view {name!r}", feature, [f.name for f in self._registry.view(name).fields])
        return self._catalogue.users(name, version=version, feature=feature)

    def lineage(self, view: AnyView | str, version: str | None = None) -> dict[str, Any]:
        """What a view is made of, down to its sources."""
        return self._catalogue.lineage(name_of(view), version)

    def quarantined(self, source: Source) -> pl.DataFrame:
        """The rows of a source that could not be taken: `_batch_id`, `_position` in it, `_reason`, and `row` as JSON."""
        return self._ingestion.quarantine(source).rows()

    def datasets(self) -> list[str]:
        """The names of the sources."""
        return self._datasets.names()

    def dataset(self, source: Source | str) -> DataSet:
        """What the table of a source holds: rows, bytes, columns, times, versions."""
        return self._datasets.describe(source if isinstance(source, str) else source.name)

    def events(self, source: Source | str) -> pl.DataFrame:
        """The rows of a source in order of event time, pushed ones too; an empty frame while it has none."""
        found = self._registry.source(source) if isinstance(source, str) else self._registered(source)
        self._ingestion.flush()
        rows = self._rows.source_table(found).read()
        return rows.sort(found.time, BATCH).drop(ID, BATCH) if rows.width else rows

    def columns(self, source: Source) -> list[str]:
        """Those that the table of a source has; none while there is no table."""
        return list(self._rows.source_table(source).schema() or ())

    def producers(self, source: Source) -> list[ProducerChange]:
        """Who asked to feed a source, and what was decided, oldest first. The last one accepted feeds it."""
        return self._producers.history(self._registered(source).name)

    def _registered(self, source: Source) -> Source:
        if not self._registry.has_source(source):
            raise unknown("source", source.name, self._registry.sources())
        return source


def name_of(view: AnyView | FeatureRef | str) -> str:
    return view if isinstance(view, str) else view.view if isinstance(view, FeatureRef) else view.name
