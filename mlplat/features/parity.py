"""Are features from two places the same? Compared by the bytes of the online store's rows: exactly, nulls and signs included."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.codec import RowCodec
from mlplat.model.signature import FeatureRef


def differing_rows(one: pl.DataFrame, other: pl.DataFrame, refs: Sequence[FeatureRef]) -> list[int]:
    """The positions at which two frames differ in the features of `refs`, whose columns are `view.feature`."""
    if one.height != other.height:
        raise InvalidInput(f"the frames have {one.height} and {other.height} rows; parity compares row with row")
    columns = [column for ref in refs for column in ref.columns()]
    codec = RowCodec([f.dtype for ref in refs for f in ref.fields])
    rows = zip(one.select(columns).iter_rows(), other.select(columns).iter_rows(), strict=True)
    return [at for at, (left, right) in enumerate(rows) if codec.encode(left) != codec.encode(right)]
