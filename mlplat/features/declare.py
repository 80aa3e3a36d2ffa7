"""What a user calls to declare sources and views: `from mlplat import features as F`, then `F.source`, `@F.view`,
`F.mean`, ..."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mlplat.clock import US_PER_S
from mlplat.errors import InvalidInput
from mlplat.features.definitions import (
    AT,
    About,
    Aggregate,
    Closed,
    Derived,
    Online,
    RowFeature,
    Source,
    View,
    WindowFeature,
    check_name,
    duration_us,
)
from mlplat.model.signature import DType, Field
from mlplat.source_code import module_text, normal_form

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


def source(
    name: str,
    *,
    key: str | tuple[str, ...],
    time: str,
    id: str | None = None,
    created: str | None = None,
    zone: str | None = None,
    description: str = "",
    owner: str = "",
    tags: tuple[str, ...] = (),
) -> Source:
    """Declare a stream of events: its entity keys, its event time, and what identifies an event.

    `created` is the column that says when a row became known: late corrections then never change what was known before.
    `zone`, such as "Europe/Paris", is that of times that come without one; without `zone` they are refused.
    """
    keys = _keys(key)
    if created is not None and created in (*keys, time, id):
        raise InvalidInput(
            f"source {name!r}: created={created!r} is a key, the event time or the id; it is a column of its own"
        )
    if time in keys:
        raise InvalidInput(f"source {name!r}: {time!r} is the event time, so it cannot be a key")
    named = [column for column in (*keys, time, id, created) if column is not None]
    if reserved := [column for column in named if column.startswith("_")]:
        raise InvalidInput(f"source {name!r}: {reserved[0]!r}: names that begin with _ are reserved")
    if zone is not None and not _is_zone(zone):
        raise InvalidInput(f"source {name!r}: zone={zone!r} is no time zone; write one such as 'UTC' or 'Europe/Paris'")
    return Source(
        name=check_name("source", name),
        key=keys,
        time=time,
        id=id,
        created=created,
        zone=zone,
        description=description,
        owner=owner,
        tags=tags,
    )


def _is_zone(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


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
    nullable: bool = True


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


def field(*, ge: float | None = None, le: float | None = None, nullable: bool = True) -> Any:
    """A field that the view's `__call__` returns, with bounds that every value must keep; with `nullable=False` no null."""
    return _Row(kind="field", ge=ge, le=le, nullable=nullable)


def view(
    source: Source,
    *,
    key: str | tuple[str, ...] | None = None,
    ttl: str | None = None,
    tile: str | None = None,
    closed: Closed = "left",
    tolerance: float | None = None,
    actors: tuple[int, int] = (1, 1),
    online: Online = "auto",
    timeout: str | None = None,
    owner: str = "",
    tags: tuple[str, ...] = (),
) -> Callable[[type], View]:
    """Declare a view: decorate a class whose attributes are features.

    `F.mean(...)` and the like are windows; `F.latest(...)` and `F.age()` read the newest row. A class with `__call__`
    is a transform: it gets rows of the source as a polars DataFrame and returns as many rows with its annotated
    fields; it is made once per actor. One view has windows or row features, not both.

    A window covers [t - window, t). With `tile="5m"` its beginning is rounded down to whole tiles since the epoch; with
    `closed="both"` an event at t itself is in it. `ttl` is the age beyond which the newest row counts as absent.

    Of a transform: `tolerance` is the relative difference of floats that parity allows, `actors` the size of its pool
    (min, max), `online` where pushed events are transformed ("inline" in the pushing process, on "actors", or "auto" by
    what a call takes), `timeout` the longest that one call may take there.
    """

    def make(body: type) -> View:
        keys = _keys(key) if key is not None else source.key
        windows, rows = _features(check_name("view", body.__name__), body)
        transform = body if "__call__" in vars(body) else None
        made = View(
            name=body.__name__,
            source=source,
            keys=keys,
            windows=windows,
            rows=rows,
            ttl_us=duration_us(ttl) if ttl is not None else None,
            tile_us=duration_us(tile) if tile is not None else None,
            closed=closed,
            code=normal_form(body) if transform is not None else None,
            module=module_text(body) if transform is not None else None,
            tolerance=tolerance,
            actors=actors,
            online=online,
            timeout_s=duration_us(timeout) / US_PER_S if timeout is not None else None,
            about=_about(body, owner, tags),
            transform=transform,
        )
        _check_view(made)
        return made

    return make


def derived(
    *parents: View | Derived,
    request: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    owner: str = "",
    tags: tuple[str, ...] = (),
) -> Callable[[type], Derived]:
    """Declare features that are computed, when they are read, from other views' features and from fields of the request.

    Decorate a class with annotated fields and `__call__`: it gets a polars DataFrame with the keys, the parents' features
    as `view.feature`, the `request` fields (name -> float, int, str or bool) and the moment as `at`, and returns as many
    rows. In a training set the labels have the request fields.
    """

    def make(body: type) -> Derived:
        name = check_name("view", body.__name__)
        windows, rows = _features(name, body)
        if windows or any(row.column is None for row in rows) or "__call__" not in vars(body):
            raise InvalidInput(
                f"view {name!r}: a derived view is a class with annotated fields and __call__, and no windows"
            )
        made = Derived(
            name=name,
            parents=tuple(parent.ref for parent in parents),
            request=tuple(_request_field(name, field, of) for field, of in (request or {}).items()),
            rows=rows,
            code=normal_form(body),
            module=module_text(body),
            tolerance=tolerance,
            about=_about(body, owner, tags),
            transform=body,
        )
        _check_derived(made)
        return made

    return make


def _about(body: type, owner: str, tags: tuple[str, ...]) -> About:
    return About(description=inspect.cleandoc(body.__doc__ or ""), owner=owner, tags=tuple(tags))


def _request_field(view: str, name: str, of: Any) -> Field:
    if of not in _DTYPE_OF:
        raise InvalidInput(
            f"view {view!r}, request field {name!r}: its type is float, int, str or bool, and not {of!r}"
        )
    return Field(name=name, dtype=_DTYPE_OF[of])


def _check_view(view: View) -> None:
    name = view.name
    taken = {f.name for f in view.fields} & {*view.keys, view.source.time, view.source.created, "status"}
    if taken:
        raise InvalidInput(
            f"view {name!r}: {sorted(map(str, taken))[0]!r} is a key, the event time or the status of a read; "
            "rename the feature"
        )
    if bool(view.windows) == bool(view.rows):
        raise InvalidInput(
            f"view {name!r}: give it windows (F.mean, F.count, ...) or row features (F.latest, F.field, ...): one kind"
        )
    if view.code is None and any(r.ge is not None or r.le is not None for r in view.rows):
        raise InvalidInput(f"view {name!r}: F.field is for a class with __call__; without one use F.latest")
    if view.windows and view.ttl_us is not None:
        raise InvalidInput(f"view {name!r}: windows bound their own age; leave ttl out")
    if not view.windows and (view.tile_us is not None or view.closed != "left"):
        raise InvalidInput(f"view {name!r}: tile and closed are for windows; the newest row at t always counts")
    if view.closed not in get_args(Closed):
        raise InvalidInput(f"view {name!r}: closed={view.closed!r} must be 'left' (without t) or 'both' (with t)")
    if view.online not in get_args(Online):
        raise InvalidInput(f"view {name!r}: online={view.online!r} must be one of {', '.join(get_args(Online))}")
    if not 1 <= view.actors[0] <= view.actors[1]:
        raise InvalidInput(f"view {name!r}: actors={view.actors!r} must be (min, max) with 1 <= min <= max")
    _check_tolerance(name, view.tolerance)


def _check_derived(view: Derived) -> None:
    if not view.parents:
        raise InvalidInput(f"view {view.name!r}: name the views that it derives from, as in @F.derived(congestion)")
    names = [ref.view for ref in view.parents]
    if len(set(names)) != len(names):
        raise InvalidInput(f"view {view.name!r}: it names a view twice: {', '.join(names)}")
    keys = {key for ref in view.parents for key in ref.keys}
    for request in view.request:
        if request.name in keys or request.name == AT:
            raise InvalidInput(f"view {view.name!r}: request field {request.name!r} is a key, or t; rename it")
    taken = {f.name for f in view.fields} & {*view.keys, AT, "status"}
    if taken:
        raise InvalidInput(f"view {view.name!r}: {sorted(taken)[0]!r} is given to the view; rename the feature")
    _check_tolerance(view.name, view.tolerance)


def _check_tolerance(name: str, tolerance: float | None) -> None:
    if tolerance is not None and not 0 < tolerance < 1:
        raise InvalidInput(f"view {name!r}: tolerance={tolerance!r} is a relative difference, between 0 and 1")


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
        nullable=value.nullable if value else True,
    )


def _keys(key: str | tuple[str, ...]) -> tuple[str, ...]:
    keys = (key,) if isinstance(key, str) else tuple(key)
    if not keys or len(set(keys)) != len(keys):
        raise InvalidInput(f"key {key!r}: name one column, or several different ones")
    return keys
