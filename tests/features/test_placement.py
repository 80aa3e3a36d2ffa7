"""Pushed events are transformed inline or on the pool, as a view says, or as its calls show."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import UserCodeError
from mlplat.features.definitions import Online, View
from mlplat.features.placement import FEWEST_CALLS, SLOW_S, Placement
from mlplat.features.pool import InProcess
from mlplat.features.store import FeatureStore
from tests.features.support import START_US, after

sales = F.source("sales", key="shop", time="at")


def doubled_on(place: Online) -> View:
    @F.view(sales, online=place)
    class doubled:
        double: float

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            if rows["price"].is_null().any():
                raise ValueError("no price")
            return rows.select(double=pl.col("price") * 2)

    return doubled


class Ticking:
    """Half a second passes whenever it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def now_us(self) -> int:
        return START_US

    def elapsed_s(self) -> float:
        self.asked += 1
        return self.asked / 2


class Counting(InProcess):
    def __init__(self) -> None:
        super().__init__()
        self.pushed = 0

    def online(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        self.pushed += rows.height
        return super().online(view, rows)


def test_auto_goes_to_the_actors_for_good_once_calls_are_slow() -> None:
    placement = Placement(doubled_on("auto"))
    for _ in range(FEWEST_CALLS - 1):
        placement.took(9.0)
    assert placement.decide() == "inline"
    placement.took(SLOW_S)
    assert placement.decide() == "actors"
    for _ in range(99):
        placement.took(0.0)
    assert placement.decide() == "actors"


def test_one_slow_call_is_no_reason_to_move() -> None:
    placement = Placement(doubled_on("auto"))
    for seconds in [9.0] + [0.001] * 20:
        placement.took(seconds)
    assert placement.decide() == "inline"


@pytest.mark.slow
@pytest.mark.parametrize(("online", "on_pool"), [("inline", 0), ("actors", 9), ("auto", 9 - FEWEST_CALLS)])
def test_pushes_go_where_they_belong_with_the_same_features(tmp_path: Path, online: Online, on_pool: int) -> None:
    pool = Counting()
    store = FeatureStore(tmp_path, clock=Ticking(), pool=pool)
    view = doubled_on(online)
    store.ingest(sales, [{"shop": "a", "at": after(0), "price": 0.5}])
    store.apply(view)
    for i in range(1, 10):
        store.push(sales, {"shop": "a", "at": after(i), "price": i / 2})
        assert store.online(view, {"shop": ["a"]}, at=after(99)).to_polars()["double"].to_list() == [i]
    assert pool.pushed == on_pool
    with pytest.raises(
        UserCodeError, match=r"'doubled': __call__ raised ValueError: no price at .*py:\d+.*'shop': 'a'"
    ):
        store.push(sales, {"shop": "a", "at": after(50), "price": None})
    store.close()
