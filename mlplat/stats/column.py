"""What is remembered of a column: counts, extremes, moments, quantiles, distinct and frequent values. Of bounded size,
and two of them merge into what the column of both would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from mlplat.errors import InvalidInput
from mlplat.stats.packed import pack, unpack
from mlplat.stats.quantiles import Floats, Quantiles
from mlplat.stats.values import SHOWN_CHARACTERS, Distinct, Frequent, Frequents

Kind = Literal["float64", "int64", "string", "bool", "timestamp"]
Scalar = float | int | str | bool

_KINDS: dict[pl.DataType, Kind] = {
    pl.Float64(): "float64",
    pl.Int64(): "int64",
    pl.String(): "string",
    pl.Boolean(): "bool",
    pl.Datetime("us", "UTC"): "timestamp",
}
MAX_BYTES = 24 * 1024
"""What a compacted sketch never exceeds, whatever the column holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSketch:
    """A column in normal form (float64, int64, text, bool, or timestamp[us, UTC] as microseconds). NaN counts as null.

    `low` and `high` are exact, of text its first 32 characters. `mean` and `m2`, the sum of squared differences from it, are
    of numbers, times and bools (the share of true); infinite numbers make them infinite or NaN. Quantiles are of numbers
    and times; frequent values of all but floats and times, text beyond 32 characters shortened and told apart by a hash.
    """

    kind: Kind
    rows: int
    nulls: int
    low: Scalar | None = None
    high: Scalar | None = None
    mean: float = 0.0
    m2: float = 0.0
    numbers: Quantiles = field(default_factory=Quantiles)
    different: Distinct = field(default_factory=Distinct)
    frequent: Frequents = field(default_factory=Frequents)

    @classmethod
    def of(cls, column: pl.Series) -> ColumnSketch:
        """Raises `InvalidInput` for a type that is not in normal form."""
        kind = _KINDS.get(column.dtype)
        if kind is None:
            raise InvalidInput(
                f"column {column.name!r} is {column.dtype}; cast it to one of {', '.join(map(str, _KINDS))}"
            )
        values = (column.fill_nan(None) if kind == "float64" else column).drop_nulls().to_physical()
        empty = cls(kind=kind, rows=len(column), nulls=len(column) - len(values))
        if values.is_empty():
            return empty
        counts = values.alias("value").value_counts(name="times").sort("times", "value", descending=[True, False])
        mean, m2 = (0.0, 0.0) if kind == "string" else _moments(values)
        return replace(
            empty,
            low=_short_prefix(values.min()),
            high=_short_prefix(values.max()),
            mean=mean,
            m2=m2,
            numbers=Quantiles.of(values.cast(pl.Float64).to_numpy()) if _measured(kind) else Quantiles(),
            different=Distinct.of(counts["value"]),
            frequent=Frequents() if kind in ("float64", "timestamp") else Frequents.of(counts),
        )

    @property
    def count(self) -> int:
        """How many values are not null."""
        return self.rows - self.nulls

    @property
    def null_rate(self) -> float:
        """The share of nulls; 0 of no rows."""
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def std(self) -> float | None:
        """The standard deviation (n - 1); None of text and of fewer than two values."""
        return math.sqrt(self.m2 / (self.count - 1)) if self.kind != "string" and self.count > 1 else None

    def quantiles(self, ranks: Sequence[float]) -> list[float | int | None]:
        """The least values at or above these shares of the values, to `RANK_ERROR`; None where there is none."""
        if not self.numbers.pieces:
            return [None] * len(ranks)
        found: list[float] = self.numbers.at(ranks).tolist()
        if self.kind == "float64":
            return list(found)
        return [min(max(int(v), int(self.low or 0)), int(self.high or 0)) for v in found]

    def below(self, bounds: Sequence[float] | Floats, *, inclusive: bool) -> Floats:
        """The share of the values below each bound, or at it, to `RANK_ERROR`; NaN if there are none."""
        return self.numbers.below(bounds, inclusive=inclusive)

    def distinct(self) -> float:
        """How many different values there are, to `DISTINCT_ERROR`."""
        return min(self.different.count(), float(self.count))

    def top(self, most: int) -> list[Frequent]:
        """The most frequent values, those that surely are, by count and then by value."""
        return self.frequent.top(most)

    def merge(self, other: ColumnSketch) -> ColumnSketch:
        """Of the rows of both. Raises `InvalidInput` for different types."""
        if self.kind != other.kind:
            raise InvalidInput(f"a sketch of {self.kind} values does not merge with one of {other.kind} values")
        rows, nulls = self.rows + other.rows, self.nulls + other.nulls
        if not self.count or not other.count:
            return replace(self if self.count else other, rows=rows, nulls=nulls)
        mean, m2 = _merge_moments((self.count, self.mean, self.m2), (other.count, other.mean, other.m2))
        return ColumnSketch(
            kind=self.kind,
            rows=rows,
            nulls=nulls,
            low=min(self.low, other.low),  # type: ignore[type-var]
            high=max(self.high, other.high),  # type: ignore[type-var]
            mean=mean,
            m2=m2,
            numbers=self.numbers.merge(other.numbers),
            different=self.different.merge(other.different),
            frequent=self.frequent.merge(other.frequent),
        )

    def compact(self) -> ColumnSketch:
        """The same in at most `MAX_BYTES`."""
        return replace(self, numbers=self.numbers.compact())

    def to_bytes(self) -> bytes:
        header = {
            "kind": self.kind,
            "rows": self.rows,
            "nulls": self.nulls,
            "low": _spelled(self.low),
            "high": _spelled(self.high),
            "mean": self.mean.hex(),
            "m2": self.m2.hex(),
        }
        return pack(header, [self.different.raw, self.frequent.raw, *self.numbers.pieces])

    @classmethod
    def from_bytes(cls, raw: bytes) -> ColumnSketch:
        """Raises `Corrupt`."""
        header, (different, frequent, *pieces) = unpack(raw)
        read = _read_float if header["kind"] == "float64" else _as_is
        return cls(
            **{
                **header,
                "low": read(header["low"]),
                "high": read(header["high"]),
                "mean": float.fromhex(header["mean"]),
                "m2": float.fromhex(header["m2"]),
            },
            numbers=Quantiles(tuple(pieces)),
            different=Distinct(different),
            frequent=Frequents(frequent),
        )


def _measured(kind: Kind) -> bool:
    return kind in ("float64", "int64", "timestamp")


def _moments(values: pl.Series) -> tuple[float, float]:
    """Mean and sum of squared differences from it. The second pass makes the mean of equal values that value."""
    numbers = values.cast(pl.Float64).to_numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.sum(numbers / len(numbers)))  # divided first: the sum of finite numbers may be none
        rest = float(np.mean(numbers - mean))
        mean += rest if math.isfinite(rest) else 0.0
        return mean, float(np.sum((numbers - mean) ** 2))


def _merge_moments(a: tuple[int, float, float], b: tuple[int, float, float]) -> tuple[float, float]:
    """Chan, Golub and LeVeque (1979); where the difference is no finite number, the mean is the weighted sum."""
    (na, ma, m2a), (nb, mb, m2b) = a, b
    n = na + nb
    difference = mb - ma
    mean = ma + difference * (nb / n) if math.isfinite(difference) else ma * (na / n) + mb * (nb / n)
    return mean, m2a + m2b + difference * difference * (na / n) * nb


def _short_prefix(value: Any) -> Any:
    """A prefix keeps the order, so the least prefix is the prefix of the least."""
    return value[:SHOWN_CHARACTERS] if isinstance(value, str) else value


def _spelled(value: Scalar | None) -> Scalar | None:
    """JSON has no infinite numbers and does not tell 1.0 from 1."""
    return value.hex() if isinstance(value, float) else value


def _read_float(value: Any) -> float | None:
    return None if value is None else float.fromhex(value)


def _as_is(value: Any) -> Any:
    return value
