"""Derived views offline: their parents' features are joined, and the view's code computes the rest, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.definitions import AT, AnyView, Derived, View
from mlplat.features.parity import check_derived
from mlplat.features.registry import Registry
from mlplat.features.transform import POLARS_TYPES, Transform, derive, fits, instance
from mlplat.features.validate import normal

Stored = Callable[[View], list[pl.Series]]
"""The features of a view that is stored, as `view.feature`, for the rows at hand."""


class DerivedViews:
    """Computes views over views. Parity is checked on the first rows that a version sees in this process."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._made: dict[str, Transform] = {}
        self._checked: set[str] = set()

    def use(self, view: Derived) -> None:
        """Remember a view's code. Refused if its text alone cannot make it in the process that serves."""
        if view.module is None:
            raise InvalidInput(
                f"view {view.name!r} stands on names from outside its module's top level, such as a local variable of the "
                "function around it; an endpoint computes it in another process: define what it uses at the top of its file"
            )
        self._transform(view)

    def columns(self, frame: pl.DataFrame, views: Sequence[AnyView], *, time: str, stored: Stored) -> list[pl.Series]:
        """The features of all views for every row of the frame, each view computed once."""
        made: dict[str, list[pl.Series]] = {}

        def of(view: AnyView) -> list[pl.Series]:
            if view.version not in made:
                made[view.version] = stored(view) if isinstance(view, View) else self._derived(frame, view, time, of)
            return made[view.version]

        return [column for view in views for column in of(view)]

    def _derived(
        self, frame: pl.DataFrame, view: Derived, time: str, of: Callable[[AnyView], list[pl.Series]]
    ) -> list[pl.Series]:
        parents = [self._registry.view(ref.view, ref.version) for ref in view.parents]
        keys = normal(frame.select(list(dict.fromkeys(key for ref in view.parents for key in ref.keys))))
        request = _request(view, frame)
        given = keys.hstack(request).hstack([c for parent in parents for c in of(parent)])
        given = given.with_columns(frame[time].alias(AT))
        transform = self._transform(view)
        if view.version not in self._checked and given.height:
            check_derived(view, transform, given)
            self._checked.add(view.version)
        return [column.alias(f"{view.name}.{column.name}") for column in derive(view, transform, given)]

    def _transform(self, view: Derived) -> Transform:
        if view.version not in self._made:
            made = instance(view)
            assert made is not None
            self._made[view.version] = made
        return self._made[view.version]


def _request(view: Derived, frame: pl.DataFrame) -> list[pl.Series]:
    found = normal(frame.select([field.name for field in view.request]))
    for field in view.request:
        wanted = POLARS_TYPES[field.dtype]
        if not fits(found.schema[field.name], wanted):
            raise InvalidInput(
                f"view {view.name!r} takes request field {field.name!r} as {wanted}, and the rows have it as "
                f"{found.schema[field.name]}: cast it"
            )
    return found.cast({field.name: POLARS_TYPES[field.dtype] for field in view.request}).get_columns()
