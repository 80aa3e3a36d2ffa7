"""A maker's errors name the row, and its calls are bounded in size and time."""

from __future__ import annotations

import threading

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import UserCodeError
from mlplat.features.maker import CALL_ROWS, Maker
from tests.features.support import after

source = F.source("sales", key="shop", time="at")
SIZES: list[int] = []
NEVER = threading.Event()


def rows(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"shop": ["a"] * count, "at": [after(i) for i in range(count)], "n": range(count), "_id": range(count)}
    )


@F.view(source)
class picky:
    x: int = F.field(ge=0)

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        SIZES.append(rows.height)
        for n in rows["n"]:
            if n in (7_000, 9_001, 9_002):
                raise ValueError(f"{n} is bad")
        return rows.select(x=pl.col("n") - pl.when(pl.col("n") == 20).then(100).otherwise(0))


@F.view(source)
class crowded:
    x: int

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        if rows.height > 1:
            raise ValueError("too many")
        return rows.select(x="n")


@F.view(source, timeout="1s")
class waiting:
    x: int

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        NEVER.wait()
        return rows.select(x="n")


def test_an_error_names_the_first_row_that_fails() -> None:
    with pytest.raises(UserCodeError, match=r"9001 is bad at .*test_maker.py:\d+.*'n': 9001"):
        Maker(picky).make(rows(10_000).slice(7_001))
    with pytest.raises(UserCodeError, match=r"-80 is not >= 0, for the row .*'n': 20"):
        Maker(picky).make(rows(100))


def test_an_error_that_no_row_has_by_itself_is_the_error_of_the_batch() -> None:
    with pytest.raises(UserCodeError, match=r"too many .*It was given 3 rows"):
        Maker(crowded).make(rows(3))


def test_a_call_gets_a_bounded_number_of_rows() -> None:
    SIZES.clear()
    assert Maker(picky).make(rows(7_000).vstack(rows(7_000)).filter(pl.col("n") != 20))["x"].len() == 13_998
    assert max(SIZES) == CALL_ROWS


def test_a_call_that_hangs_is_an_error_with_the_view_and_the_rows() -> None:
    try:
        with pytest.raises(
            UserCodeError, match=r"view 'waiting': __call__ took longer than 0.05 s on 5 rows, .*'n': 0"
        ):
            Maker(waiting, timeout_s=0.05).make(rows(5))
    finally:
        NEVER.set()
