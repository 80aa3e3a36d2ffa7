"""A join block by block gives what one join of all gives, byte for byte, and sees no event that came after it was pinned."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.features import pinned
from mlplat.features.parity import differing_rows
from mlplat.features.pinned import PinnedJoin
from mlplat.features.store import FeatureStore
from tests.features.support import after, open_store

sales = F.source("sales", key="shop", time="sold_at", id="sale")
notes = F.source("notes", key="shop", time="noted_at", id="note", created="entered_at")
empty = F.source("empty", key="shop", time="at")


@F.view(sales)
class lately:
    sold_1h = F.count(window="1h")
    mean_1h = F.mean("price", window="1h")


@F.view(notes, ttl="2h")
class stars:
    share: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(share=pl.col("stars") / 4)


@F.view(empty)
class nothing:
    count_1h = F.count(window="1h")


@F.derived(lately, stars, request={"price": float})
class odd:
    times_mean: float
    worth: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        times_mean = pl.col("price") / pl.col("lately.mean_1h")
        return rows.select(times_mean=times_mean, worth=times_mean * pl.col("stars.share"))


def sold(count: int, first: int = 0) -> pl.DataFrame:
    ids = range(first, first + count)
    return pl.DataFrame(
        {
            "sale": [f"s{i}" for i in ids],
            "shop": [f"shop{i * 7 % 5}" for i in ids],
            "sold_at": [after(60 * (i % 300)) for i in ids],
            "price": [None if i % 11 == 0 else i * 7919 % 97 / 3 for i in ids],
        }
    )


def noted(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "note": [f"n{i % 40}" for i in range(count)],
            "shop": [f"shop{i % 40 % 5}" for i in range(count)],
            "noted_at": [after(400 * (i % 40)) for i in range(count)],
            "entered_at": [after(400 * (i % 40) + 900 * (i // 40)) for i in range(count)],
            "stars": [float(i % 6) for i in range(count)],
        }
    )


ASKED = pl.DataFrame(
    {
        "shop": [None if i % 13 == 0 else f"shop{i % 6}" for i in range(200)],
        "price": [float(i) for i in range(200)],
        "asked_at": [after(97 * i) for i in range(200)],
    }
)
VIEWS = (lately, stars, nothing, odd)
REFS = [view.ref for view in VIEWS]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    store = open_store(tmp_path_factory.mktemp("home"))
    store.ingest(sales, sold(600))
    store.ingest(notes, noted(120))
    store.apply(*VIEWS)
    yield store
    store.close()


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> bool:
    return found.columns == wanted.columns and not differing_rows(found, wanted, REFS)


@pytest.fixture(scope="module")
def join(store: FeatureStore) -> PinnedJoin:
    return PinnedJoin(pickle.loads(pickle.dumps(store.pin(REFS))), memory=pinned.LEAST_BYTES)


@pytest.mark.slow
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, ASKED.height), max_size=4))
def test_any_cut_into_blocks_gives_the_features_of_one_join(
    store: FeatureStore, join: PinnedJoin, cuts: list[int]
) -> None:
    ends = [0, *sorted(cuts), ASKED.height]
    blocks = [join(ASKED[a:b], time="asked_at") for a, b in pairwise(ends)]
    assert same(pl.concat(blocks), store.join(ASKED, REFS, time="asked_at"))


@pytest.mark.slow
def test_views_that_do_not_fit_are_joined_in_buckets(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "fits", lambda size, *, made, limit: False)
    join = PinnedJoin(store.pin(REFS), memory=0)
    assert same(
        pl.concat([join(ASKED[:70], time="asked_at"), join(ASKED[70:], time="asked_at")]),
        store.join(ASKED, REFS, time="asked_at"),
    )


def test_what_comes_after_the_pin_is_not_seen(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.ingest(sales, sold(100))
    store.apply(lately)
    before = store.join(ASKED, [lately], time="asked_at")
    pins = store.pin([lately.ref])
    store.ingest(sales, sold(100, first=100).with_columns(pl.lit("shop1").alias("shop")))
    join = PinnedJoin(pins, memory=0)
    assert join(ASKED, time="asked_at").equals(before)
    assert not store.join(ASKED, [lately], time="asked_at").equals(before)
    store.close()
