"""What a user declares: sources of events, and views that make features of them. Plain values; nothing here reads
data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from dataclasses import field as dc_field
from typing import Any, Literal, get_args

import orjson

from mlplat.errors import InvalidInput
from mlplat.model.signature import DType, FeatureRef, Field

Aggregate = Literal["count", "sum", "mean", "min", "max", "last"]
AGGREGATES: tuple[str, ...] = get_args(Aggregate)

_UNIT_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
MAX_US = 36_500 * _UNIT_US["d"]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def duration_us(text: str) -> int:
    """`"90s"`, `"5m"`, `"1h"`, `"7d"`, `"2w"` as microseconds. Raises `InvalidInput`."""
    match = re.fullmatch(r"(\d+)([smhdw])", text)
    if match is None or int(match[1]) == 0:
        raise InvalidInput(
            f"duration {text!r}: write a whole number above 0 and a unit of s, m, h, d, w, as in '90s' or '7d'"
        )
    if (us := int(match[1]) * _UNIT_US[match[2]]) > MAX_US:
        raise InvalidInput(f"duration {text!r}: the longest is 36500d")
    return us


def check_name(kind: str, name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{kind} name {name!r}: use lower-case letters, digits and _, beginning with a letter, at most 63"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A stream of events. `key` are the default entity keys, `time` the event time column.

    `id` names the column that identifies an event within its time: one that is delivered again counts once. Without it
    the whole row does, or, where there is `created`, the keys do.

    `created` names the column that says when a row became known. A row with a later `created` corrects the event of the
    same time and id from then on; what was known before stays as it was. Without it a row is known at its event time.

    `zone` is the time zone of event times and `created` that come without one; None refuses them.
    """

    name: str
    key: tuple[str, ...]
    time: str
    id: str | None = None
    created: str | None = None
    zone: str | None = None
    description: str = dc_field(default="", compare=False)
    owner: str = dc_field(default="", compare=False)
    tags: tuple[str, ...] = dc_field(default=(), compare=False)

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every row must have a value in."""
        named = (*self.key, self.time, self.id, self.created)
        return tuple(dict.fromkeys(column for column in named if column is not None))

    def identity(self) -> dict[str, Any]:
        """All that can change a value; what is not set is left out, so that an older definition keeps its hash."""
        optional = {"created": self.created, "zone": self.zone}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"name": self.name, "key": list(self.key), "time": self.time, "id": self.id, **given}

    def to_json(self) -> dict[str, Any]:
        return {**self.identity(), "description": self.description, "owner": self.owner, "tags": list(self.tags)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Source:
        return cls(**{**raw, "key": tuple(raw["key"]), "tags": tuple(raw.get("tags", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFeature:
    """An aggregate of the events in a window before t of one entity. Nulls do not count; of no events, a count is 0,
    all else null."""

    name: str
    aggregate: Aggregate
    column: str | None
    window_us: int

    @property
    def field(self) -> Field:
        return Field(name=self.name, dtype="int64" if self.aggregate == "count" else "float64")

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "aggregate": self.aggregate, "column": self.column, "window_us": self.window_us}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFeature:
    """A value of the newest row at or before t of one entity, or of a derived view. `column` None is the row's age in
    seconds. `ge`, `le` and `nullable` are what a transform's values must keep."""

    name: str
    column: str | None
    dtype: DType
    ge: float | None = None
    le: float | None = None
    nullable: bool = True

    @property
    def field(self) -> Field:
        return Field(name=self.name, dtype=self.dtype)

    def to_json(self) -> dict[str, Any]:
        strict = {} if self.nullable else {"nullable": False}
        bounds = {"ge": self.ge, "le": self.le}
        return {"name": self.name, "column": self.column, "dtype": self.dtype, **bounds, **strict}


Closed = Literal["left", "both"]
Online = Literal["auto", "inline", "actors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What people say of a view. It changes no value, so it makes no version."""

    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"description": self.description, "owner": self.owner, "tags": list(self.tags)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> About:
        return cls(description=raw.get("description", ""), owner=raw.get("owner", ""), tags=tuple(raw.get("tags", ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Features of one source for one entity: either all windows, or all values of the newest row, perhaps after a
    transform.

    A window covers `[t - window, t)`; with `tile_us` h it begins at `t - window` rounded down to a multiple of h since
    the epoch; with `closed="both"` an event at t is in it. `ttl_us` is the age beyond which the newest row counts as
    absent. `transform` is the user's class; `code` is its text in a normal form, so that comments and spaces do not make
    a version; `module` is text that makes the class again in another process, None if there is none. `tolerance` is the
    relative difference that parity allows in a float. `actors` is the size of the pool (min, max) in batch, `online`
    where pushed events are transformed, `timeout_s` the longest that one call of the transform may take there.
    """

    name: str
    source: Source
    keys: tuple[str, ...]
    windows: tuple[WindowFeature, ...] = ()
    rows: tuple[RowFeature, ...] = ()
    ttl_us: int | None = None
    tile_us: int | None = None
    closed: Closed = "left"
    code: str | None = None
    module: str | None = dc_field(default=None, compare=False, repr=False)
    tolerance: float | None = None
    actors: tuple[int, int] = (1, 1)
    online: Online = "auto"
    timeout_s: float | None = None
    about: About = dc_field(default_factory=About, compare=False)
    transform: Callable[[], Any] | None = dc_field(default=None, compare=False, repr=False)
    version: str = dc_field(init=False, compare=False)
    """The identity of the definition: a hash of all that can change a value."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", _hash(self._identity()))

    @property
    def description(self) -> str:
        return self.about.description

    @property
    def fields(self) -> tuple[Field, ...]:
        return (*(window.field for window in self.windows), *(row.field for row in self.rows))

    @property
    def ref(self) -> FeatureRef:
        return FeatureRef(view=self.name, version=self.version, keys=self.keys, fields=self.fields)

    @property
    def span_us(self) -> int:
        """How far back from t the windows reach."""
        return max((w.window_us for w in self.windows), default=0) + (self.tile_us or 0)

    def value_columns(self) -> tuple[str, ...]:
        """The columns of the source that the windows read."""
        return tuple(sorted({w.column for w in self.windows if w.column is not None}))

    def identity_columns(self) -> tuple[str, ...]:
        """The keys, the event time and, where the source has it, `created`."""
        created = self.source.created
        return tuple(dict.fromkeys([*self.keys, self.source.time, *([created] if created is not None else [])]))

    def _identity(self) -> dict[str, Any]:
        optional = {"tile_us": self.tile_us, "closed": self.closed if self.closed != "left" else None}
        return {
            "name": self.name,
            "source": self.source.identity(),
            "keys": list(self.keys),
            "windows": [w.to_json() for w in self.windows],
            "rows": [r.to_json() for r in self.rows],
            "ttl_us": self.ttl_us,
            "code": self.code,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def to_json(self) -> dict[str, Any]:
        return {
            **self._identity(),
            **self.about.to_json(),
            "actors": list(self.actors),
            "online": self.online,
            "timeout_s": self.timeout_s,
            "tolerance": self.tolerance,
            "module": self.module,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> View:
        """The definition; its transform is made of `module` where it is needed."""
        return cls(
            name=value["name"],
            source=Source.from_json(value["source"]),
            keys=tuple(value["keys"]),
            windows=tuple(WindowFeature(**w) for w in value["windows"]),
            rows=tuple(RowFeature(**r) for r in value["rows"]),
            ttl_us=value["ttl_us"],
            tile_us=value.get("tile_us"),
            closed=value.get("closed", "left"),
            code=value["code"],
            module=value.get("module"),
            tolerance=value.get("tolerance"),
            actors=(value["actors"][0], value["actors"][1]),
            online=value.get("online", "auto"),
            timeout_s=value.get("timeout_s"),
            about=About.from_json(value),
        )


AT = "at"
"""The column of a derived view's input that holds t."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """Features computed from other views' features and from fields of the request, when they are read. Nothing is stored.

    `parents` are pinned versions, so views over views make no cycle. `request` are the fields that a caller sends; as a
    label has them too, they count as keys here: what must be given to read the view. The code gets the keys, the
    parents' features as `view.feature`, the request fields, and t as `at`.
    """

    name: str
    parents: tuple[FeatureRef, ...]
    request: tuple[Field, ...]
    rows: tuple[RowFeature, ...]
    code: str
    module: str | None = dc_field(default=None, compare=False, repr=False)
    tolerance: float | None = None
    about: About = dc_field(default_factory=About, compare=False)
    transform: Callable[[], Any] | None = dc_field(default=None, compare=False, repr=False)
    version: str = dc_field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", _hash(self._identity()))

    @property
    def description(self) -> str:
        return self.about.description

    @property
    def keys(self) -> tuple[str, ...]:
        """The parents' keys, then the request fields."""
        return tuple(dict.fromkeys([*(k for ref in self.parents for k in ref.keys), *(f.name for f in self.request)]))

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(row.field for row in self.rows)

    @property
    def ref(self) -> FeatureRef:
        return FeatureRef(view=self.name, version=self.version, keys=self.keys, fields=self.fields)

    def _identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parents": [[ref.view, ref.version] for ref in self.parents],
            "request": [[f.name, f.dtype] for f in self.request],
            "rows": [r.to_json() for r in self.rows],
            "code": self.code,
        }

    def to_json(self) -> dict[str, Any]:
        return {
            **self._identity(),
            **self.about.to_json(),
            "parents": [asdict(ref) for ref in self.parents],
            "tolerance": self.tolerance,
            "module": self.module,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Derived:
        return cls(
            name=value["name"],
            parents=tuple(FeatureRef.from_json(ref) for ref in value["parents"]),
            request=tuple(Field(name=name, dtype=dtype) for name, dtype in value["request"]),
            rows=tuple(RowFeature(**r) for r in value["rows"]),
            code=value["code"],
            module=value.get("module"),
            tolerance=value.get("tolerance"),
            about=About.from_json(value),
        )


AnyView = View | Derived


def view_from_json(value: Mapping[str, Any]) -> AnyView:
    return Derived.from_json(value) if "parents" in value else View.from_json(value)


def _hash(identity: Mapping[str, Any]) -> str:
    return hashlib.blake2b(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS), digest_size=6).hexdigest()
