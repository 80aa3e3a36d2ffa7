"""The point-in-time join against an oracle that says the definitions word for word."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.clock import US_PER_S
from mlplat.errors import InvalidInput
from mlplat.features.definitions import View
from mlplat.features.offline import empty_rows, join
from mlplat.features.transform import stored
from tests.features.support import START_US, Event, newest_row, row_bytes, window_value

events_source = F.source("events", key=("shop", "item"), time="sold_at")


@F.view(events_source)
class windows:
    sold_1s = F.count(window="1s")
    sold_5s = F.count(window="5s")
    total_5s = F.sum("price", window="5s")
    mean_5s = F.mean("price", window="5s")
    mean_1m = F.mean("price", window="1m")
    least_5s = F.min("price", window="5s")
    most_5s = F.max("price", window="5s")
    last_5s = F.last("price", window="5s")
    stock_1m = F.sum("stock", window="1m")


@F.view(events_source)
class newest:
    price: float = F.latest("price")
    stock: int = F.latest("stock")
    age = F.age()


@F.view(events_source, ttl="3s")
class fresh:
    price: float = F.latest("price")
    age = F.age()


WIDE = 250_000 * 365 * 86_400  # seconds: times so far apart that entity and time do not fit in 62 bits together

shops = st.sampled_from(["north", "south", "Ærø", None])
items = st.sampled_from([1, 2, None])
# Halves of a second, so that events fall on the borders of windows.
moments = st.integers(-10, 30).map(lambda half: START_US + half * US_PER_S // 2)
prices = st.one_of(
    st.none(),
    st.sampled_from([0.1, 0.2, 0.3, -0.0, 0.0, 1e16, -1e16, 1.0]),
    st.integers(-5, 5).map(float),
    st.floats(-1e12, 1e12, allow_nan=False),
)
stocks = st.one_of(st.none(), st.integers(-100, 100))


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    rows = draw(st.lists(st.tuples(shops, items, moments, st.integers(-3, 3), prices, stocks), max_size=25))
    unique = {(time, id): (shop, item, price, stock) for shop, item, time, id, price, stock in rows}
    return [
        Event(entity=(shop, item), time_us=time, id=id, values={"price": price, "stock": stock})
        for (time, id), (shop, item, price, stock) in unique.items()
    ]


queries = st.lists(st.tuples(shops, items, moments), max_size=15)


def frame_of(events: list[Event]) -> pl.DataFrame:
    return pl.DataFrame(
        [(*e.entity, e.time_us, e.id, e.values["price"], e.values["stock"]) for e in events],
        schema={"shop": pl.String, "item": pl.Int64, "sold_at": pl.Int64, "_id": pl.Int64, "price": pl.Float64,
                "stock": pl.Int64},
        orient="row",
    ).with_columns(pl.col("sold_at").cast(pl.Datetime("us", "UTC")))  # fmt: skip


def asked(rows: list[tuple[Any, Any, int]]) -> pl.DataFrame:
    schema = {"shop": pl.String, "item": pl.Int64, "at": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def expected(
    view: View, events: list[Event], rows: list[tuple[Any, Any, int]], known_us: int | None
) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {column: [] for column in view.ref.columns()}
    for shop, item, at in rows:
        for w in view.windows:
            made[f"{view.name}.{w.name}"].append(window_value(w, events, (shop, item), at, known_us=known_us))
        row = newest_row(events, (shop, item), at, view.ttl_us, known_us)
        for f in view.rows:
            age = None if row is None else float(at - row.time_us) / US_PER_S
            value = age if f.column is None else None if row is None else row.values[f.column]
            made[f"{view.name}.{f.name}"].append(value)
    return made


def rows_of(view: View, events: list[Event]) -> pl.DataFrame:
    frame = frame_of(events)
    return frame.select("shop", "item", "sold_at", "_id", *(view.value_columns() or [f.name for f in stored(view)]))


def check(view: View, events: list[Event], rows: list[tuple[Any, Any, int]], known_us: int | None = None) -> None:
    joined = join(asked(rows), [view], time="at", rows_of=lambda v: rows_of(v, events), known_us=known_us)
    assert joined.select("shop", "item", "at").equals(asked(rows))
    wanted = expected(view, events, rows, known_us)
    found = {column: joined[column].to_list() for column in view.ref.columns()}
    assert row_bytes(view.ref, found) == row_bytes(view.ref, wanted), (found, wanted)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(histories(), queries)
def test_windows_are_the_events_from_t_minus_w_until_before_t(events: list[Event], rows: list[Any]) -> None:
    check(windows, events, rows)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(histories(), queries)
def test_the_newest_row_is_the_greatest_time_then_id_at_or_before_t(events: list[Event], rows: list[Any]) -> None:
    check(newest, events, rows)
    check(fresh, events, rows)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(histories(), queries, moments)
def test_an_event_is_known_at_its_time(events: list[Event], rows: list[Any], known_us: int) -> None:
    for view in (windows, newest, fresh):
        check(view, events, rows, known_us)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(histories(), queries, st.integers(0, 2))
def test_spans_too_wide_for_one_number_give_the_same(events: list[Event], rows: list[Any], side: int) -> None:
    far = [Event(entity=("far", 1), time_us=START_US + d * WIDE * US_PER_S, id=9, values={"price": 1.5, "stock": 1})
           for d in (-1, 1)]  # fmt: skip
    shifted = START_US + (side - 1) * WIDE * US_PER_S + US_PER_S
    asked_for = [*rows, ("far", 1, shifted), ("north", 1, shifted)]
    check(windows, [*events, *far], asked_for)
    check(newest, [*events, *far], asked_for)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(histories(), queries, st.randoms())
def test_the_order_of_the_table_does_not_matter(events: list[Event], rows: list[Any], random: Any) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)
    one = join(asked(rows), [windows, newest], time="at", rows_of=lambda v: rows_of(v, events))
    other = join(asked(rows), [windows, newest], time="at", rows_of=lambda v: rows_of(v, shuffled))
    assert one.equals(other)


def test_a_source_without_data_gives_nulls_and_counts_of_zero() -> None:
    types = {"shop": pl.String(), "item": pl.Int64()}
    joined = join(asked([("north", 1, START_US)]), [windows, newest], time="at", rows_of=lambda v: empty_rows(v, types))
    assert joined["windows.sold_5s"].to_list() == [0]
    assert joined["windows.mean_5s"].to_list() == [None]
    assert joined["newest.stock"].dtype == pl.Int64
    assert joined["newest.age"].to_list() == [None]


def test_time_to_live_includes_its_border() -> None:
    events = [Event(entity=("north", 1), time_us=START_US, id=0, values={"price": 2.0, "stock": 1})]
    ends = START_US + 3 * US_PER_S
    joined = join(
        asked([("north", 1, ends), ("north", 1, ends + 1)]), [fresh], time="at", rows_of=lambda v: rows_of(v, events)
    )
    assert joined["fresh.price"].to_list() == [2.0, None]


def test_keys_are_compared_as_values_and_not_as_storage_types() -> None:
    events = [Event(entity=("north", 1), time_us=START_US, id=0, values={"price": 2.0, "stock": 1})]
    narrow = asked([("north", 1, START_US)]).cast({"shop": pl.Categorical(), "item": pl.Int16})
    joined = join(narrow, [newest], time="at", rows_of=lambda v: rows_of(v, events))
    assert joined["newest.price"].to_list() == [2.0]
    assert joined.schema["item"] == pl.Int16
    nothing = narrow.with_columns(shop=pl.lit(None))
    assert join(nothing, [newest], time="at", rows_of=lambda v: rows_of(v, events))["newest.price"].to_list() == [None]


@pytest.mark.parametrize(
    ("change", "views", "message"),
    [
        (lambda f: f.drop("item"), [newest], "view 'newest' is keyed by 'item'; the rows have shop, at"),
        (lambda f: f.cast({"item": pl.String}), [newest], "key 'item' is String, and source 'events' has it as Int64"),
        (lambda f: f, [newest, newest], "column 'newest.price' would be there twice"),
        (lambda f: f.with_columns(pl.lit(1).alias("fresh.age")), [fresh], "column 'fresh.age' would be there twice"),
    ],
)
def test_a_join_that_cannot_be_made_is_refused(change: Any, views: list[View], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        join(change(asked([("north", 1, START_US)])), views, time="at", rows_of=lambda v: rows_of(v, []))
