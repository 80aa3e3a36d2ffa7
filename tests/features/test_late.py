"""What was known when: late events, corrections, tiles and closed windows against an oracle that says the definitions word
for word."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.clock import US_PER_S
from mlplat.features import late
from mlplat.features.definitions import View
from mlplat.features.offline import join
from mlplat.features.transform import stored
from tests.features.support import START_US, Event, newest_row, row_bytes, window_value

source = F.source("events", key="shop", time="sold_at", id="sale", created="known_at")


@F.view(source)
class plain:
    sold_1s = F.count(window="1s")
    sold_5s = F.count(window="5s")
    total_5s = F.sum("price", window="5s")
    least_5s = F.min("price", window="5s")
    last_5s = F.last("price", window="5s")


@F.view(source, tile="2s")
class tiled:
    sold_1s = F.count(window="1s")
    sold_5s = F.count(window="5s")
    mean_5s = F.mean("price", window="5s")
    most_1s = F.max("price", window="1s")


@F.view(source, tile="3s", closed="both")
class closed:
    sold_1s = F.count(window="1s")
    last_5s = F.last("price", window="5s")
    total_1s = F.sum("price", window="1s")


@F.view(source, ttl="3s")
class newest:
    price: float = F.latest("price")
    age = F.age()


VIEWS = [plain, tiled, closed, newest]
HALF = US_PER_S // 2
shops = st.sampled_from(["north", "south", None])
moments = st.integers(-14, 20).map(lambda half: START_US + half * HALF)
early = st.integers(-14, 20).map(lambda half: half * HALF)  # about the epoch: tiles are floored before it too
prices = st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.3, -0.0, 0.0, 1e16, -1e16]), st.floats(-1e12, 1e12))
delays = st.sampled_from([-HALF, 0, 0, 0, 1, HALF, 2 * US_PER_S, 7 * US_PER_S])


@st.composite
def histories(draw: st.DrawFn, times: st.SearchStrategy[int] = moments) -> list[Event]:
    """Events with versions: a version is a (time, id) again with another time of becoming known."""
    events = draw(st.lists(st.tuples(shops, times, st.integers(-3, 3)), max_size=14, unique_by=lambda e: e[1:]))
    versions = [
        Event(entity=(shop,), time_us=time, id=id, values={"price": draw(prices)}, created_us=time + delay)
        for shop, time, id in events
        for delay in draw(st.lists(delays, min_size=1, max_size=3, unique=True))
    ]
    return draw(st.permutations(versions))


def frame_of(view: View, events: list[Event]) -> pl.DataFrame:
    frame = pl.DataFrame(
        [(*e.entity, e.time_us, e.known_us, e.id, e.values["price"]) for e in events],
        schema={"shop": pl.String, "sold_at": pl.Int64, "known_at": pl.Int64, "_id": pl.Int64, "price": pl.Float64},
        orient="row",
    ).with_columns(pl.col("sold_at", "known_at").cast(pl.Datetime("us", "UTC")))
    return frame.select("shop", "sold_at", "known_at", "_id", *(view.value_columns() or [f.name for f in stored(view)]))


def asked(rows: list[tuple[Any, int]]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"shop": pl.String, "at": pl.Int64}, orient="row")
    return frame.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def check(view: View, events: list[Event], rows: list[tuple[Any, int]], known_us: int | None) -> None:
    joined = join(asked(rows), [view], time="at", rows_of=lambda v: frame_of(v, events), known_us=known_us)
    wanted: dict[str, list[Any]] = {column: [] for column in view.ref.columns()}
    for shop, at in rows:
        for w in view.windows:
            value = window_value(w, events, (shop,), at, known_us=known_us, tile_us=view.tile_us, closed=view.closed)
            wanted[f"{view.name}.{w.name}"].append(value)
        row = newest_row(events, (shop,), at, view.ttl_us, known_us)
        for f in view.rows:
            age = None if row is None else float(at - row.time_us) / US_PER_S
            wanted[f"{view.name}.{f.name}"].append(
                age if f.column is None else None if row is None else row.values[f.column]
            )
    found = {column: joined[column].to_list() for column in view.ref.columns()}
    assert row_bytes(view.ref, found) == row_bytes(view.ref, wanted), (view.name, found, wanted)


def on_the_borders(events: list[Event]) -> list[tuple[Any, int]]:
    """Questions where it matters: at events, at the moments when they became known, a window later, and a bit beside."""
    around = [t + d for e in events for t in (e.time_us, e.known_us) for d in (0, 1, US_PER_S, 5 * US_PER_S)]
    return [(e.entity[0], at) for e in events[:3] for at in around]


@pytest.mark.slow
@settings(max_examples=60)
@given(histories(), st.lists(st.tuples(shops, moments), max_size=12))
def test_a_question_sees_what_was_known_at_its_time(events: list[Event], rows: list[Any]) -> None:
    for view in VIEWS:
        check(view, events, [*rows, *on_the_borders(events)[:40]], None)


@pytest.mark.slow
@settings(max_examples=30)
@given(histories(), st.lists(st.tuples(shops, moments), max_size=12), moments)
def test_a_knowledge_time_can_be_chosen(events: list[Event], rows: list[Any], known_us: int) -> None:
    for view in VIEWS:
        check(view, events, rows, known_us)


@pytest.mark.slow
@settings(max_examples=30)
@given(histories(early), st.lists(st.tuples(shops, early), max_size=12))
def test_tiles_are_multiples_since_the_epoch_before_it_too(events: list[Event], rows: list[Any]) -> None:
    for view in (tiled, closed):
        check(view, events, [*rows, *on_the_borders(events)[:20]], None)


def test_many_late_windows_are_looked_at_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "CHUNK_ROWS", 7)
    events = [
        Event(entity=("north",), time_us=START_US + i * HALF, id=i, values={"price": i / 10},
              created_us=START_US + i * HALF + (i % 4) * US_PER_S)
        for i in range(30)
    ]  # fmt: skip
    for view in VIEWS:
        check(view, events, [("north", START_US + i * HALF) for i in range(40)], None)


def test_a_correction_does_not_rewrite_what_was_known() -> None:
    first = Event(entity=("north",), time_us=START_US, id=1, values={"price": 1.0}, created_us=START_US)
    hour = 3600 * US_PER_S
    correction = Event(entity=("north",), time_us=START_US, id=1, values={"price": 9.0}, created_us=START_US + 2)
    rows = [("north", START_US + 1), ("north", START_US + 2)]
    for known_us, wanted in ((None, [1.0, 9.0]), (START_US + hour, [9.0, 9.0]), (START_US + 1, [1.0, 1.0])):
        joined = join(
            asked(rows),
            [newest, plain],
            time="at",
            rows_of=lambda v: frame_of(v, [first, correction]),
            known_us=known_us,
        )
        assert joined["newest.price"].to_list() == wanted
        assert joined["plain.total_5s"].to_list() == wanted
