"""Sketches of columns against exact answers."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import Corrupt, InvalidInput
from mlplat.stats import ColumnSketch, TableSketch
from mlplat.stats.column import MAX_BYTES
from mlplat.stats.quantiles import EXACT, MAX_PIECES, RANK_ERROR, K
from mlplat.stats.values import DISTINCT_ERROR, FREQUENT_ERROR

UTC_US = pl.Datetime("us", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The bound holds with probability 0.99; three times it with one that no test ever meets.
SURELY = 3 * RANK_ERROR

ELEMENTS: dict[pl.DataType, st.SearchStrategy[Any]] = {
    pl.Float64(): st.floats(-1e12, 1e12) | st.just(math.nan) | st.sampled_from([0.0, 1.0]),
    pl.Int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5),
    pl.String(): st.text(max_size=50) | st.sampled_from(["", "tea", "milk"]),
    pl.Boolean(): st.booleans(),
    UTC_US: st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda t: t.replace(tzinfo=UTC)),
}


@st.composite
def parts(draw: st.DrawFn, count: int) -> list[pl.Series]:
    dtype = draw(st.sampled_from(list(ELEMENTS)))
    values = st.lists(st.none() | ELEMENTS[dtype], max_size=30)
    return [pl.Series("x", draw(values), dtype=dtype) for _ in range(count)]


def exact(column: pl.Series) -> list[Any]:
    """The values that count, as a sketch gives them back."""
    values = column.to_physical().to_list()
    return [v for v in values if v is not None and not (isinstance(v, float) and math.isnan(v))]


def check(sketch: ColumnSketch, column: pl.Series) -> None:
    values = exact(column)
    assert (sketch.rows, sketch.nulls, sketch.count) == (len(column), len(column) - len(values), len(values))
    assert sketch.distinct() == pytest.approx(len(set(values)), rel=6 * DISTINCT_ERROR, abs=1e-3)
    if not values:
        assert (sketch.low, sketch.high, sketch.std, sketch.quantiles([0.5])) == (None, None, None, [None])
        return
    if column.dtype == pl.String:
        assert (sketch.low, sketch.high) == (min(values)[:32], max(values)[:32])
    else:
        assert (sketch.low, sketch.high) == (min(values), max(values))
        check_moments(sketch, values)
    if column.dtype not in (pl.String, pl.Boolean):
        check_quantiles(sketch, values)
    check_top(sketch, column, values)


def check_moments(sketch: ColumnSketch, values: list[Any]) -> None:
    plain = np.array(values, dtype=np.longdouble)  # 64 bits of mantissa: every int64 and float64 is in it
    mean, spread = plain.mean(), float(np.abs(plain).max())
    assert sketch.mean == pytest.approx(float(mean), rel=1e-12, abs=1e-12 * spread)
    if len(values) > 1:
        vanishes = 1e-150  # the square of a smaller number is no float
        assert sketch.std == pytest.approx(float(plain.std(ddof=1)), rel=1e-9, abs=1e-12 * spread + vanishes)


def check_quantiles(sketch: ColumnSketch, values: list[Any]) -> None:
    ranks = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0]
    ordered = np.sort(np.array(values, dtype=np.float64))
    slack = SURELY if len(values) > K * len(sketch.numbers.pieces) else 1e-9
    for rank, found in zip(ranks, sketch.quantiles(ranks), strict=True):
        assert found is not None
        low, high = (np.searchsorted(ordered, float(found), side=side) / len(values) for side in ("left", "right"))
        assert low - slack <= rank <= high + slack or found == sketch.low


def check_top(sketch: ColumnSketch, column: pl.Series, values: list[Any]) -> None:
    if column.dtype in (pl.Float64, UTC_US):
        assert sketch.top(10) == []
        return
    true = Counter(pl.Series(values, dtype=column.dtype).cast(pl.String).to_list())
    for item in sketch.top(1_000):
        times = sum(
            n
            for value, n in true.items()
            if value == item.value or ("…" in item.value and value[:32] == item.value[:32])
        )
        assert item.at_least <= times
        assert item.at_most - item.at_least <= FREQUENT_ERROR * len(values)
    if len(true) <= 96:
        assert len(sketch.top(1_000)) == len(true)
        assert sum(item.at_least for item in sketch.top(1_000)) == len(values)


@pytest.mark.slow
@given(columns=parts(1))
def test_a_sketch_answers_for_its_column(columns: list[pl.Series]) -> None:
    check(ColumnSketch.of(columns[0]), columns[0])


@pytest.mark.slow
@given(columns=parts(3))
def test_merging_is_the_sketch_of_both_in_any_order_and_grouping(columns: list[pl.Series]) -> None:
    whole = pl.concat(columns)
    a, b, c = (ColumnSketch.of(column) for column in columns)
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b), a.merge(b).compact().merge(c)):
        check(merged, whole)
    assert a.merge(b).numbers == b.merge(a).numbers
    assert a.merge(b).top(99) == b.merge(a).top(99)


@pytest.mark.slow
@given(columns=parts(2))
def test_a_sketch_survives_its_bytes(columns: list[pl.Series]) -> None:
    sketch = ColumnSketch.of(columns[0]).merge(ColumnSketch.of(columns[1]))
    assert ColumnSketch.from_bytes(sketch.to_bytes()) == sketch


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 40])
def test_large_columns_keep_to_the_published_bounds(pieces: int) -> None:
    random = np.random.default_rng(3)
    frame = pl.DataFrame(
        {
            "normal": random.normal(1e9, 1.0, 13_000),
            "skewed": random.lognormal(0, 4, 13_000),
            "spike": np.where(random.uniform(size=13_000) < 0.6, 0.0, random.normal(size=13_000)),
            "number": random.integers(0, 13_000, 13_000),
            "text": [f"value {n}" for n in random.zipf(1.3, 13_000) % 5_000],
        }
    )
    parts = [frame.slice(i * frame.height // pieces, frame.height // pieces) for i in range(pieces)]
    merged = TableSketch.of(parts[0])
    for part in parts[1:]:
        merged = merged.merge(TableSketch.of(part))
    for sketch in (merged, merged.compact()):
        for column in frame:
            check(sketch.columns[column.name], column)


def test_equal_columns_give_equal_bytes_up_to_many_values() -> None:
    some = pl.Series(np.random.default_rng(1).normal(size=EXACT))
    assert ColumnSketch.of(some).to_bytes() == ColumnSketch.of(some.clone()).to_bytes()


def test_what_is_kept_reads_the_same_in_any_order() -> None:
    kept = [ColumnSketch.of(pl.Series(np.random.default_rng(i).normal(size=19_000))).compact() for i in range(4)]
    ranks = [0.1, 0.5, 0.9]
    one = kept[0].merge(kept[1]).merge(kept[2]).merge(kept[3])
    other = kept[3].merge(kept[2]).merge(kept[1].merge(kept[0]))
    assert one.quantiles(ranks) == other.quantiles(ranks)


@pytest.mark.slow
def test_the_size_is_bounded_whatever_the_column_holds() -> None:
    texts = pl.Series([f"{'é€😀' * 20}{i % 90}" for i in range(1_000)])
    numbers = pl.Series(np.random.default_rng(0).normal(size=30_000))
    for column in (texts, numbers, numbers.cast(pl.Int64), pl.Series([f"v{i}" for i in range(20_000)])):
        assert len(ColumnSketch.of(column).compact().to_bytes()) <= MAX_BYTES
    merged = ColumnSketch.of(numbers)
    most = 0
    for at in range(2 * MAX_PIECES):
        merged = merged.merge(ColumnSketch.of(numbers.slice(at, 150)))
        most = max(most, len(merged.numbers.pieces))
    assert most == MAX_PIECES
    assert len(merged.compact().to_bytes()) <= MAX_BYTES


def test_variance_does_not_cancel() -> None:
    sketch = ColumnSketch.of(pl.Series([1e9, 1e9 + 0.1])).merge(ColumnSketch.of(pl.Series([1e9 + 0.4])))
    assert sketch.std == pytest.approx(np.std([0.0, 0.1, 0.4], ddof=1), rel=1e-6)


def test_equal_values_have_no_spread() -> None:
    sketch = ColumnSketch.of(pl.Series([0.1] * 7)).merge(ColumnSketch.of(pl.Series([0.1] * 3)))
    assert (sketch.mean, sketch.std) == (0.1, 0.0)


def test_numbers_at_the_edge_of_floats_do_not_stop_a_sketch() -> None:
    huge = ColumnSketch.of(pl.Series([1.7e308, 1.7e308])).merge(ColumnSketch.of(pl.Series([-1.7e308])))
    assert huge.mean == pytest.approx(1.7e308 / 3)
    assert huge.std == math.inf
    infinite = ColumnSketch.of(pl.Series([math.inf, 1.0, -math.inf]))
    assert (infinite.low, infinite.high) == (-math.inf, math.inf)
    assert ColumnSketch.from_bytes(infinite.to_bytes()).quantiles([0.5]) == [1.0]


def test_whole_numbers_beyond_floats_keep_their_extremes() -> None:
    sketch = ColumnSketch.of(pl.Series([2**53, 2**53 + 1, 2**63 - 1]))
    assert (sketch.low, sketch.high) == (2**53, 2**63 - 1)
    assert {item.value for item in sketch.top(3)} == {str(2**53), str(2**53 + 1), str(2**63 - 1)}
    assert sketch.distinct() == pytest.approx(3, abs=0.01)


def test_times_are_microseconds() -> None:
    sketch = ColumnSketch.of(pl.Series([EPOCH, EPOCH + timedelta(seconds=2), None], dtype=UTC_US))
    assert (sketch.low, sketch.high, sketch.quantiles([0.5]), sketch.nulls) == (0, 2_000_000, [0], 1)


def test_text_of_one_beginning_is_told_apart() -> None:
    sketch = ColumnSketch.of(pl.Series(["x" * 40 + "a", "x" * 40 + "b", "x" * 40 + "b"]))
    assert [item.at_least for item in sketch.top(5)] == [2, 1]


def test_a_column_that_is_not_in_normal_form_is_refused() -> None:
    with pytest.raises(InvalidInput, match="column 'x' is Int32; cast it to one of Float64, Int64"):
        ColumnSketch.of(pl.Series("x", [1], dtype=pl.Int32))


def test_sketches_of_two_types_do_not_merge() -> None:
    with pytest.raises(InvalidInput, match="a sketch of int64 values does not merge with one of string values"):
        ColumnSketch.of(pl.Series([1])).merge(ColumnSketch.of(pl.Series(["a"])))


def test_bytes_that_were_cut_off_are_refused() -> None:
    raw = ColumnSketch.of(pl.Series([1.0, 2.0])).to_bytes()
    for broken in (raw[:-1], raw[:2], b""):
        with pytest.raises(Corrupt, match="is not what was written"):
            ColumnSketch.from_bytes(broken)
