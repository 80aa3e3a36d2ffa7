"""Are features from two places the same? Compared by the bytes of the online store's rows: exactly, nulls and signs
included, unless a view declares a tolerance for its floats."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl

from mlplat.errors import InvalidInput, ParityError
from mlplat.features.codec import RowCodec
from mlplat.features.definitions import AnyView, Derived, View
from mlplat.features.push import Row, to_frame
from mlplat.features.tables import BATCH, ID
from mlplat.features.transform import Transform, derive, make_rows, row_codec, stored
from mlplat.model.signature import FeatureRef

ROWS = 256
"""The size of the sample on which a transform is checked."""
_SEED = 20_240_229
_LARGEST = 60

Make = Callable[[pl.DataFrame], pl.DataFrame]
Values = list[tuple[Any, ...]]


def differing_rows(one: pl.DataFrame, other: pl.DataFrame, refs: Sequence[FeatureRef]) -> list[int]:
    """The positions at which two frames differ in the features of `refs`, whose columns are `view.feature`."""
    if one.height != other.height:
        raise InvalidInput(f"the frames have {one.height} and {other.height} rows; parity compares row with row")
    columns = [column for ref in refs for column in ref.columns()]
    codec = RowCodec([f.dtype for ref in refs for f in ref.fields])
    rows = zip(one.select(columns).iter_rows(), other.select(columns).iter_rows(), strict=True)
    return [at for at, (left, right) in enumerate(rows) if codec.encode(left) != codec.encode(right)]


def check_parity(view: View, transform: Transform, rows: pl.DataFrame) -> None:
    """Whole batch = row by row = random chunks = streamed through the online path, on a sample of a source's rows. Raises
    `ParityError` with the first differing row."""
    sample = rows.head(ROWS).drop(BATCH, strict=False)
    names = [f.name for f in stored(view)]

    def make(some: pl.DataFrame) -> pl.DataFrame:
        return make_rows(view, transform, some).select(names)

    whole = make(sample).rows()
    _compare_chunks(view, make, whole, sample)
    _compare(view, whole, _streamed(view, make, sample), sample, "streamed through the online path")


def check_derived(view: Derived, transform: Transform, given: pl.DataFrame) -> None:
    """Whole batch = row by row = random chunks, on a sample of what the view is given."""
    sample = given.head(ROWS)

    def make(some: pl.DataFrame) -> pl.DataFrame:
        return derive(view, transform, some)

    _compare_chunks(view, make, make(sample).rows(), sample)


def _compare_chunks(view: AnyView, make: Make, whole: Values, sample: pl.DataFrame) -> None:
    one_by_one = [row for at in range(sample.height) for row in make(sample.slice(at, 1)).rows()]
    _compare(view, whole, one_by_one, sample, "row by row")
    cut = [row for first, size in _random_chunks(sample.height) for row in make(sample.slice(first, size)).rows()]
    _compare(view, whole, cut, sample, "in random chunks")


def _random_chunks(height: int) -> Iterator[tuple[int, int]]:
    sizes = random.Random(_SEED)
    first = 0
    while first < height:
        size = sizes.randint(1, _LARGEST)
        yield first, size
        first += size


def _streamed(view: View, make: Make, sample: pl.DataFrame) -> Values:
    """Each row as it is pushed, stored and read: as a dict of plain values, as a blob, and back."""
    schema = {name: dtype for name, dtype in sample.schema.items() if name != ID}
    plain = sample.with_columns(pl.col(pl.Datetime).to_physical())
    codec = row_codec(view)
    pushed: list[Row] = plain.to_dicts()
    return [tuple(codec.decode(codec.encode(make(to_frame([row], schema)).row(0)))) for row in pushed]


def _compare(view: AnyView, whole: Values, other: Values, sample: pl.DataFrame, how: str) -> None:
    names = [f.name for f in stored(view)]
    codec = row_codec(view)
    for at, (one, two) in enumerate(zip(whole, other, strict=True)):
        if codec.encode(one) != codec.encode(two) and not _near(one, two, view.tolerance):
            shown = sample.drop(ID, strict=False).row(at, named=True)
            raise ParityError(
                f"view {view.name!r} depends on how its rows are batched. Row {at} of the sample, {shown}, gives "
                f"{dict(zip(names, one, strict=True))} in a batch of {sample.height} and {dict(zip(names, two, strict=True))} "
                f"{how}. A feature may depend on its own row alone; across rows use windows. For floats that differ in the "
                "last digits alone declare a tolerance."
            )


def _near(one: tuple[Any, ...], two: tuple[Any, ...], tolerance: float | None) -> bool:
    if tolerance is None:
        return False
    return all(
        abs(a - b) <= tolerance * max(abs(a), abs(b)) if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(one, two, strict=True)
    )
