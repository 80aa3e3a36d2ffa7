"""A backbone behind the cache of its endpoint: asked for those rows alone that it did not answer before, here or, where
answers are shared, anywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from mlplat.serve.backbone import Backbone, Columns, Fused, Outputs
from mlplat.serve.cache import Cache, row_keys
from mlplat.serve.flight import Compute, Flights
from mlplat.serve.shared import Share

Values = tuple[Any, ...]
"""The outputs for a row, in the order of the model's output fields."""


class Remembered:
    """For one model, by its digest. Models of one endpoint share a cache. `shared` is asked for what that does not have, unless
    the model runs in this process: its answer takes less time than a server's."""

    def __init__(
        self,
        backbone: Backbone,
        cache: Cache[Values],
        *,
        digest: str,
        outputs: Sequence[str],
        shared: Share | None = None,
    ) -> None:
        self._backbone, self._cache, self._digest, self._names = backbone, cache, digest, tuple(outputs)
        self._shared = shared
        self._flights: Flights[Values] = Flights()

    async def predict(self, columns: Columns, rows: int) -> tuple[Outputs, list[bool]]:
        """The outputs, and whether a row's were known. Raises what the backbone raises; errors are not remembered."""
        keys = row_keys(self._digest, list(columns.values()), rows)
        if rows == 1 and isinstance(self._backbone, Fused):
            return await self._one(columns, keys[0])
        known = [self._cache.get(key) for key in keys]
        missed = [row for row, values in enumerate(known) if values is None]
        hits = [True] * rows
        if missed:
            shared: set[bytes] = set()
            for row, values in zip(missed, await self._found(columns, rows, keys, missed, shared), strict=True):
                known[row] = values
                hits[row] = keys[row] in shared
        by_name = map(list, zip(*known, strict=True))
        return dict(zip(self._names, by_name, strict=True)), hits

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
        self, columns: Columns, rows: int, keys: Sequence[bytes], missed: Sequence[int], shared: set[bytes]
    ) -> Sequence[Values]:
        """The values of the missed rows. `shared` gets the keys of those that the model was not asked for."""

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
        wanted = [keys[row] for row in missed]
        if self._shared is None:
            return await self._flights.values(wanted, compute)
        return await self._flights.values(wanted, partial(self._looked, self._shared, wanted, compute, shared))

    async def _looked(
        self,
        share: Share,
        wanted: Sequence[bytes],
        compute: Compute[Values],
        shared: set[bytes],
        positions: list[int],
    ) -> list[Values]:
        """What was answered anywhere, and the rest from the model."""
        known = dict(await share.get([wanted[position] for position in positions], len(self._names)))
        for key, values in known.items():
            self._cache.put(key, values, _size(values))
        shared.update(known)
        left = [position for position in positions if wanted[position] not in known]
        if left:
            computed = dict(zip([wanted[position] for position in left], await compute(left), strict=True))
            share.put(computed)
            known |= computed
        return [known[wanted[position]] for position in positions]


def _size(values: Values) -> int:
    return sys.getsizeof(values) + sum(map(sys.getsizeof, values))
