"""A backbone behind the cache of its endpoint: asked for those rows alone that it did not answer before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from mlplat.serve.backbone import Backbone, Columns, Fused, Outputs
from mlplat.serve.cache import Cache, row_keys
from mlplat.serve.flight import Flights

Values = tuple[Any, ...]
"""The outputs for a row, in the order of the model's output fields."""


class Remembered:
    """For one model, by its digest. Models of one endpoint share a cache."""

    def __init__(self, backbone: Backbone, cache: Cache[Values], *, digest: str, outputs: Sequence[str]) -> None:
        self._backbone, self._cache, self._digest, self._names = backbone, cache, digest, tuple(outputs)
        self._flights: Flights[Values] = Flights()

    async def predict(self, columns: Columns, rows: int) -> tuple[Outputs, list[bool]]:
        """The outputs, and whether a row's were known. Raises what the backbone raises; errors are not remembered."""
        keys = row_keys(self._digest, list(columns.values()), rows)
        if rows == 1 and isinstance(self._backbone, Fused):
            return await self._one(columns, keys[0])
        known = [self._cache.get(key) for key in keys]
        missed = [row for row, values in enumerate(known) if values is None]
        if missed:
            for row, values in zip(missed, await self._found(columns, rows, keys, missed), strict=True):
                known[row] = values
        by_name = map(list, zip(*known, strict=True))
        outputs = dict(zip(self._names, by_name, strict=True))
        if not missed:
            return outputs, [True] * rows
        gone = set(missed)
        return outputs, [row not in gone for row in range(rows)]

    async def _one(self, columns: Columns, key: bytes) -> tuple[Outputs, list[bool]]:
        """What many are given, for one row of a model that answers before another request can ask for the same."""
        values = self._cache.get(key)
        if values is not None:
            return {name: [value] for name, value in zip(self._names, values, strict=True)}, [True]
        outputs = await self._backbone.predict(columns, 1)
        values = tuple([outputs[name][0] for name in self._names])
        self._cache.put(key, values, _size(values))
        return outputs, [False]

    async def _found(
        self, columns: Columns, rows: int, keys: Sequence[bytes], missed: Sequence[int]
    ) -> Sequence[Values]:
        async def compute(positions: Sequence[int]) -> list[Values]:
            asked = [missed[position] for position in positions]
            part = columns if len(asked) == rows else {n: [v[row] for row in asked] for n, v in columns.items()}
            outputs = await self._backbone.predict(part, len(asked))
            found = list(zip(*(outputs[name] for name in self._names), strict=True))
            for row, values in zip(asked, found, strict=True):
                self._cache.put(keys[row], values, _size(values))
            return found

        if isinstance(self._backbone, Fused):  # it answers before another request can ask for the same
            return await compute(range(len(missed)))
        return await self._flights.values([keys[row] for row in missed], compute)


def _size(values: Values) -> int:
    return sys.getsizeof(values) + sum(map(sys.getsizeof, values))
