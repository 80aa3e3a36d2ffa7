"""A backbone behind the cache of its endpoint: asked for those rows alone that it did not answer before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from mlplat.serve.backbone import Backbone, Columns, Outputs
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
        known = [self._cache.get(key) for key in keys]
        missed = [row for row, values in enumerate(known) if values is None]
        if missed:

            async def compute(positions: list[int]) -> list[Values]:
                asked = [missed[position] for position in positions]
                part = columns if len(asked) == rows else {n: [v[row] for row in asked] for n, v in columns.items()}
                outputs = await self._backbone.predict(part, len(asked))
                found = list(zip(*(outputs[name] for name in self._names), strict=True))
                for row, values in zip(asked, found, strict=True):
                    self._cache.put(keys[row], values, _size(values))
                return found

            for row, values in zip(
                missed, await self._flights.values([keys[row] for row in missed], compute), strict=True
            ):
                known[row] = values
        gone = set(missed)
        by_name = zip(*known, strict=True)
        return dict(zip(self._names, map(list, by_name), strict=True)), [row not in gone for row in range(rows)]


def _size(values: Values) -> int:
    return sys.getsizeof(values) + sum(map(sys.getsizeof, values))
