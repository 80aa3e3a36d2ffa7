"""Which values a column has: how many different ones, and the most frequent (Apache DataSketches). Neither throws coins:
equal columns give equal bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import polars as pl
from datasketches import frequent_items_error_type, frequent_strings_sketch, hll_sketch, hll_union, tgt_hll_type

LG_DISTINCT = 12
DISTINCT_ERROR = 0.0163
"""Relative standard error of a distinct count: 1.04 / sqrt(2**LG_DISTINCT) (Flajolet et al. 2007)."""
LG_FREQUENT = 7
FREQUENT_ERROR = float(frequent_strings_sketch.get_epsilon_for_lg_size(LG_FREQUENT))
"""The count of a frequent value is off by at most this share of the values (0.0273); up to 96 different ones are exact."""
SHOWN_CHARACTERS = 32
_EMPTY_TEXT = "\x00"  # the library passes over the empty string


@dataclass(frozen=True, slots=True)
class Distinct:
    """A serialized HyperLogLog sketch of at most 2.2 KiB; no bytes if there is no value."""

    raw: bytes = b""

    @classmethod
    def of(cls, values: pl.Series) -> Distinct:
        sketch = hll_sketch(LG_DISTINCT, tgt_hll_type.HLL_4)
        plain = values.cast(pl.Int64) if values.dtype == pl.Boolean else values
        for value in plain.sort().to_list():
            sketch.update(_EMPTY_TEXT if value == "" else value)
        return cls(sketch.serialize_compact())

    def count(self) -> float:
        return float(hll_sketch.deserialize(self.raw).get_estimate()) if self.raw else 0.0

    def merge(self, other: Distinct) -> Distinct:
        union = hll_union(LG_DISTINCT)
        union.update(hll_sketch.deserialize(self.raw))
        union.update(hll_sketch.deserialize(other.raw))
        return Distinct(union.get_result(tgt_hll_type.HLL_4).serialize_compact())


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequent:
    """A value as text, and how often it occurs at least and at most."""

    value: str
    at_least: int
    at_most: int


@dataclass(frozen=True, slots=True)
class Frequents:
    """A serialized Misra-Gries sketch of at most 96 values; no bytes if frequent values are not kept of the column."""

    raw: bytes = b""

    @classmethod
    def of(cls, counts: pl.DataFrame) -> Frequents:
        """Of `value` and how many `times` it occurs."""
        sketch = frequent_strings_sketch(LG_FREQUENT)
        for value, times in zip(counts["value"].cast(pl.String).to_list(), counts["times"].to_list(), strict=True):
            sketch.update(_short(value), times)
        return cls(sketch.serialize())

    def top(self, most: int) -> list[Frequent]:
        """By count and then by value; only values that are surely more frequent than all that are left out."""
        if not self.raw:
            return []
        sketch = frequent_strings_sketch.deserialize(self.raw)
        found = sketch.get_frequent_items(frequent_items_error_type.NO_FALSE_POSITIVES)
        items = [Frequent(value=value, at_least=low, at_most=high) for value, _, low, high in found]
        return sorted(items, key=lambda item: (-item.at_least, item.value))[:most]

    def merge(self, other: Frequents) -> Frequents:
        if not self.raw or not other.raw:
            return Frequents()
        merged = frequent_strings_sketch.deserialize(self.raw)
        merged.merge(frequent_strings_sketch.deserialize(other.raw))
        return Frequents(merged.serialize())


def _short(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}…{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
