"""What a user calls to declare sources and views: `from mlplat import features as F`, then `F.source`, `@F.view`,
`F.mean`, ..."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlplat.errors import InvalidInput
from mlplat.features.definitions import Aggregate, RowFeature, Source, View, WindowFeature, check_name, duration_us
from mlplat.features.source_code import normal_form
from mlplat.model.signature import DType

_DTYPE_OF: Mapping[Any, DType] = {
    float: "float64",
    int: "int64",
    str: "string",
    bool: "bool",
    "float": "float64",
    "int": "int64",
    "str": "string",
    "bool": "bool",
}


def source(name: str, *, key: str | tuple[str, ...], time: str, id: str | None = None) -> Source:
    """Declare a stream of events: its entity keys, its event time, and what identifies an event."""
    keys = _keys(key)
    if time in keys:
        raise InvalidInput(f"source {name!r}: {time!r} is the event time, so it cannot be a key")
    if reserved := [column for column in (*keys, time, id) if column is not None and column.startswith("_")]:
        raise InvalidInput(f"source {name!r}: {reserved[0]!r}: names that begin with _ are reserved")
    return Source(name=check_name("source", name), key=keys, time=time, id=id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    aggregate: Aggregate
    column: str | None
    window: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    kind: Literal["latest", "age", "field"]
    column: str | None = None
    ge: float | None = None
    le: float | None = None


def count(*, window: str) -> Any:
    """The number of events in the window."""
    return _Window(aggregate="count", column=None, window=window)


def sum(column: str, *, window: str) -> Any:
    """The correctly rounded sum of a column in the window; null where it has no value."""
    return _Window(aggregate="sum", column=column, window=window)


def mean(column: str, *, window: str) -> Any:
    """The correctly rounded sum over the number of values; null where there is none."""
    return _Window(aggregate="mean", column=column, window=window)


def min(column: str, *, window: str) -> Any:
    """The smallest value in the window."""
    return _Window(aggregate="min", column=column, window=window)


def max(column: str, *, window: str) -> Any:
    """The greatest value in the window."""
    return _Window(aggregate="max", column=column, window=window)


def last(column: str, *, window: str) -> Any:
    """The newest value in the window that is not null."""
    return _Window(aggregate="last", column=column, window=window)


def latest(column: str) -> Any:
    """A column of the newest row at or before t, null if it is null there. Annotate it: `delay: float =
    F.latest("delay")`."""
    return _Row(kind="latest", column=column)


def age() -> Any:
    """Seconds from the newest row's event time to t."""
    return _Row(kind="age")


def field(*, ge: float | None = None, le: float | None = None) -> Any:
    """A field that the view's `__call__` returns, with bounds that every value must keep."""
    return _Row(kind="field", ge=ge, le=le)


def view(
    source: Source,
    *,
    key: str | tuple[str, ...] | None = None,
    ttl: str | None = None,
    actors: tuple[int, int] = (1, 1),
) -> Callable[[type], View]:
    """Declare a view: decorate a class whose attributes are features.

    `F.mean(...)` and the like are windows; `F.latest(...)` and `F.age()` read the newest row. A class with `__call__`
    is a transform: it gets rows of the source as a polars DataFrame and returns as many rows with its annotated
    fields; it is made once per actor. One view has windows or row features, not both.
    """

    def make(body: type) -> View:
        return _make_view(body, source, _keys(key) if key is not None else source.key, ttl, actors)

    return make


def _make_view(body: type, source: Source, keys: tuple[str, ...], ttl: str | None, actors: tuple[int, int]) -> View:
    name = check_name("view", body.__name__)
    windows, rows = _features(name, body)
    transform = body if "__call__" in vars(body) else None
    taken = ({w.name for w in windows} | {r.name for r in rows}) & {*keys, source.time, "status"}
    if taken:
        raise InvalidInput(
            f"view {name!r}: {sorted(taken)[0]!r} is a key, the event time or the status of a read; rename the feature"
        )
    if bool(windows) == bool(rows):
        raise InvalidInput(
            f"view {name!r}: give it windows (F.mean, F.count, ...) or row features (F.latest, F.field, ...): one kind"
        )
    if transform is None and any(r.ge is not None or r.le is not None for r in rows):
        raise InvalidInput(f"view {name!r}: F.field is for a class with __call__; without one use F.latest")
    if windows and ttl is not None:
        raise InvalidInput(f"view {name!r}: windows bound their own age; leave ttl out")
    if not 1 <= actors[0] <= actors[1]:
        raise InvalidInput(f"view {name!r}: actors={actors!r} must be (min, max) with 1 <= min <= max")
    return View(
        name=name,
        source=source,
        keys=keys,
        windows=windows,
        rows=rows,
        ttl_us=duration_us(ttl) if ttl is not None else None,
        code=normal_form(body) if transform is not None else None,
        actors=actors,
        description=inspect.cleandoc(body.__doc__ or ""),
        transform=transform,
    )


def _features(view: str, body: type) -> tuple[tuple[WindowFeature, ...], tuple[RowFeature, ...]]:
    annotations = inspect.get_annotations(body)
    transforms = "__call__" in vars(body)
    windows: list[WindowFeature] = []
    rows: list[RowFeature] = []
    declared = {**dict.fromkeys(annotations), **{n: v for n, v in vars(body).items() if isinstance(v, _Window | _Row)}}
    for name, value in declared.items():
        check_name("feature", name)
        if isinstance(value, _Window):
            windows.append(
                WindowFeature(
                    name=name, aggregate=value.aggregate, column=value.column, window_us=duration_us(value.window)
                )
            )
        elif isinstance(value, _Row) and value.kind == "age":
            rows.append(RowFeature(name=name, column=None, dtype="float64"))
        else:
            rows.append(_row_feature(view, name, value, annotations.get(name), transforms))
    return tuple(windows), tuple(rows)


def _row_feature(view: str, name: str, value: _Row | None, annotation: Any, transforms: bool) -> RowFeature:
    dtype = _DTYPE_OF.get(annotation)
    if dtype is None:
        raise InvalidInput(f"view {view!r}, feature {name!r}: annotate it with float, int, str or bool")
    if not transforms and (value is None or value.kind != "latest"):
        raise InvalidInput(f"view {view!r}, feature {name!r}: say where it comes from, as in F.latest('column')")
    if value is not None and (value.ge is not None or value.le is not None) and dtype not in ("float64", "int64"):
        raise InvalidInput(f"view {view!r}, feature {name!r}: only a number has bounds")
    column = value.column if value is not None and value.kind == "latest" and not transforms else name
    return RowFeature(
        name=name,
        column=column,
        dtype=dtype,
        ge=value.ge if value else None,
        le=value.le if value else None,
    )


def _keys(key: str | tuple[str, ...]) -> tuple[str, ...]:
    keys = (key,) if isinstance(key, str) else tuple(key)
    if not keys or len(set(keys)) != len(keys):
        raise InvalidInput(f"key {key!r}: name one column, or several different ones")
    return keys
