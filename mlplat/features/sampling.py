"""A part of the labels, the same ones whenever it is drawn: in any order, among others, by any process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.ids import row_ids
from mlplat.features.validate import normal

_SEED = "_seed"


def sample_labels(frame: pl.DataFrame, share: float, *, by: Sequence[str], seed: int = 0) -> pl.DataFrame:
    """About a `share` (0 to 1) of the rows, in their order.

    Whether a row is taken is decided by a hash of its values in the columns `by` (the entity keys and the time) and the
    seed alone: equal rows are taken or left together, and a larger share has all rows of a smaller one.
    """
    if not 0 < share <= 1:
        raise InvalidInput(f"sample={share}: give the share of the labels to take, above 0 and at most 1, as in 0.1")
    if absent := [column for column in by if column not in frame.columns]:
        raise InvalidInput(f"labels are sampled by {absent[0]!r}; they have {', '.join(frame.columns)}")
    values = normal(frame.select(by)).with_columns(pl.lit(seed, dtype=pl.Int64).alias(_SEED))
    # A signed 64-bit hash is evenly spread over all its values.
    limit = math.floor(share * 2**64) - 2**63
    return frame.filter(pl.Series(row_ids(values, [_SEED, *by])).cast(pl.Int128) < limit)
