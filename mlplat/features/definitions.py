"""What a user declares: sources of events, and views that make features of them. Plain values; nothing here reads
data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

    `id` names the column that identifies an event: one that is delivered again counts once. Without it the whole row
    does.
    """

    name: str
    key: tuple[str, ...]
    time: str
    id: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "key": list(self.key), "time": self.time, "id": self.id}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFeature:
    """An aggregate of the events in [t - window, t) of one entity. Nulls do not count; of no events, a count is 0,
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
    """A value of the newest row at or before t of one entity. `column` None is the row's age in seconds."""

    name: str
    column: str | None
    dtype: DType
    ge: float | None = None
    le: float | None = None

    @property
    def field(self) -> Field:
        return Field(name=self.name, dtype=self.dtype)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "column": self.column, "dtype": self.dtype, "ge": self.ge, "le": self.le}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Features of one source for one entity: either all windows, or all values of the newest row, perhaps after a
    transform.

    `ttl_us` is the age beyond which the newest row counts as absent. `transform` is the user's class; `code` is its
    text in a normal form, so that comments and spaces do not make a version. `actors` is the size of the pool (min,
    max) in batch.
    """

    name: str
    source: Source
    keys: tuple[str, ...]
    windows: tuple[WindowFeature, ...] = ()
    rows: tuple[RowFeature, ...] = ()
    ttl_us: int | None = None
    code: str | None = None
    actors: tuple[int, int] = (1, 1)
    description: str = ""
    transform: Callable[[], Any] | None = dc_field(default=None, compare=False, repr=False)
    version: str = dc_field(init=False, compare=False)
    """The identity of the definition: a hash of all that can change a value."""

    def __post_init__(self) -> None:
        identity = orjson.dumps(self._identity(), option=orjson.OPT_SORT_KEYS)
        object.__setattr__(self, "version", hashlib.blake2b(identity, digest_size=6).hexdigest())

    @property
    def fields(self) -> tuple[Field, ...]:
        return (*(window.field for window in self.windows), *(row.field for row in self.rows))

    @property
    def ref(self) -> FeatureRef:
        return FeatureRef(view=self.name, version=self.version, keys=self.keys, fields=self.fields)

    @property
    def span_us(self) -> int:
        """How far back from t the windows reach."""
        return max((w.window_us for w in self.windows), default=0)

    def value_columns(self) -> tuple[str, ...]:
        """The columns of the source that the windows read."""
        return tuple(sorted({w.column for w in self.windows if w.column is not None}))

    def _identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "source": self.source.to_json(),
            "keys": list(self.keys),
            "windows": [w.to_json() for w in self.windows],
            "rows": [r.to_json() for r in self.rows],
            "ttl_us": self.ttl_us,
            "code": self.code,
        }

    def to_json(self) -> dict[str, Any]:
        return {**self._identity(), "actors": list(self.actors), "description": self.description}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> View:
        """The definition without its transform: enough to read features, not to make them."""
        raw = value["source"]
        return cls(
            name=value["name"],
            source=Source(name=raw["name"], key=tuple(raw["key"]), time=raw["time"], id=raw["id"]),
            keys=tuple(value["keys"]),
            windows=tuple(WindowFeature(**w) for w in value["windows"]),
            rows=tuple(RowFeature(**r) for r in value["rows"]),
            ttl_us=value["ttl_us"],
            code=value["code"],
            actors=(value["actors"][0], value["actors"][1]),
            description=value["description"],
        )
