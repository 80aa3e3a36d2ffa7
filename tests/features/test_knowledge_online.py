"""The online path knows what was known when: streamed in any order, a read equals the definition, or says that it cannot."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.clock import US_PER_S
from mlplat.features.definitions import View
from mlplat.features.memory_store import MemoryStore
from mlplat.features.online import Status
from mlplat.features.online_writer import (
    bulk_window_updates,
    keep_us,
    latest_updates,
    row_updates,
    window_updates,
    write,
)
from mlplat.features.push import Row, to_frame
from mlplat.features.reader import OnlineFeatures
from mlplat.features.registry import Registry
from mlplat.features.transform import make_rows
from tests.features.support import Event, newest_row, window_value

corrected = F.source("corrected", key="shop", time="at", id="order", created="told")
plain = F.source("plain", key="shop", time="at", id="order")
SCHEMA: dict[str, pl.DataType] = {
    "shop": pl.String(), "at": pl.Datetime("us", "UTC"), "told": pl.Datetime("us", "UTC"), "price": pl.Float64(),
    "stock": pl.Int64(), "open": pl.Boolean(), "seen": pl.Datetime("us", "UTC"), "name": pl.String()
}  # fmt: skip


def windows_of(source: F.Source, name: str, **arguments: Any) -> View:
    body = {
        "sold": F.count(window="4s"), "total": F.sum("price", window="9s"),
        "mean": F.mean("price", window="4s"), "least": F.min("stock", window="9s"), "most": F.max("open", window="4s"),
        "newest": F.last("price", window="9s"),
    }  # fmt: skip
    return F.view(source, **arguments)(type(name, (), body))


def rows_of(source: F.Source, name: str, **arguments: Any) -> View:
    types = {"price": float, "stock": int, "open": bool}
    body = {column: F.latest(column) for column in types} | {"__annotations__": types, "age": F.age()}
    return F.view(source, **arguments)(type(name, (), body))


VIEWS = [
    windows_of(corrected, "versions"),
    windows_of(corrected, "versions_tiled", tile="3s", closed="both"),
    windows_of(plain, "plain_windows"),
    windows_of(plain, "tiled", tile="3s"),
    windows_of(plain, "closed", closed="both"),
    rows_of(corrected, "corrected_rows", ttl="6s"),
    rows_of(plain, "plain_rows", ttl="6s"),
    rows_of(plain, "lasting_rows"),
]
# Some are so old that a blob no longer keeps them.
SECONDS = (st.integers(-8, 8) | st.integers(-3_640, -3_630)).map(lambda s: s * US_PER_S)
row = st.fixed_dictionaries(
    {
        "shop": st.sampled_from(["a", "b", None]),
        "at": SECONDS | SECONDS.map(lambda us: us + 1),
        "delay": st.integers(-2, 6).map(lambda s: s * US_PER_S),
        "price": st.none() | st.sampled_from([0.1, 0.2, -0.0, 1e16, 2.5]),
        "stock": st.none() | st.integers(-3, 3),
        "open": st.none() | st.booleans(),
        "_id": st.integers(0, 2),
    }
)


def streamed(view: View, batches: Sequence[tuple[bool, list[Row]]], registry: Registry) -> OnlineFeatures:
    registry.put_view(view, now_us=0)
    store = MemoryStore()
    for as_table, batch in batches:
        if not as_table:
            write(store, window_updates(view, batch) if view.windows else latest_updates(view, batch))
            continue
        frame = to_frame([{name: row.get(name) for name in (*SCHEMA, "_id")} for row in batch], SCHEMA)
        made = (
            list(bulk_window_updates(view, frame)) if view.windows else row_updates(view, make_rows(view, None, frame))
        )
        write(store, made)
    return OnlineFeatures(store, registry)


def expected(view: View, events: list[Event], at_us: int, *, keep: bool) -> list[Any]:
    if view.windows:
        options = {"tile_us": view.tile_us, "closed": view.closed}
        return [window_value(f, events, ("a",), at_us, **options) for f in view.windows]
    found = newest_row(events, ("a",), at_us, None if keep else view.ttl_us)
    if found is None:
        return [None] * len(view.rows)
    return [(at_us - found.time_us) / US_PER_S if f.column is None else found.values[f.column] for f in view.rows]


def unanswerable(view: View, events: list[Event], at_us: int) -> bool:
    """Whether the store cannot know: what it keeps begins after the window, or its one row is of later."""
    mine = [e for e in events if e.entity == ("a",)]
    if view.windows:
        begin = at_us - max(w.window_us for w in view.windows)
        begin = begin if view.tile_us is None else begin // view.tile_us * view.tile_us
        times = [e.time_us for e in mine]
        return bool(times) and min(times) < max(times) - keep_us(view) and begin < max(times) - keep_us(view)
    newest = max(mine, key=lambda e: e.order, default=None)
    return newest is not None and max(newest.time_us, newest.known_us) > at_us


def check(view: View, rows: list[Row], random: Any, splits: list[tuple[bool, int]], asked: list[int]) -> None:
    stream = [*rows, *random.sample(rows, len(rows) // 3)]
    random.shuffle(stream)
    batches = []
    for as_table, size in [*splits, (False, len(stream))]:
        batches.append((as_table, stream[:size]))
        stream = stream[size:]
    events = [
        Event(
            entity=(r["shop"],), time_us=r["at"], id=r["_id"], values=r,
            created_us=r["told"] if view.source.created else None,
        )
        for r in rows
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        reader = streamed(view, batches, Registry(Path(folder)))
        plain, kept = (check_read(reader, view, events, asked, keep) for keep in ((), (view.name,)))
    assert kept == plain, "a status does not depend on what is kept"


def check_read(
    reader: OnlineFeatures, view: View, events: list[Event], asked: list[int], keep: Sequence[str]
) -> list[Status]:
    one_by_one = [reader.read([view.ref], {"shop": ["a"]}, [at], keep) for at in asked]
    together = reader.read([view.ref], {"shop": ["a"] * 20}, [*asked, *asked[:1] * 20][:20], keep)
    for i, (at, one) in enumerate(zip(asked, one_by_one, strict=True)):
        found = [one.columns[column][0] for column in view.ref.columns()]
        assert [together.columns[c][i] for c in view.ref.columns()] == found
        assert list(map(type, found)) == [type(together.columns[c][i]) for c in view.ref.columns()]
        status: Status = one.status[view.name][0]
        assert together.status[view.name][i] == status
        if unanswerable(view, events, at):
            assert status == "missing"
            continue
        wanted = expected(view, events, at, keep=bool(keep))
        assert list(map(repr, found)) == list(map(repr, wanted)), (view.name, at)
    return [one.status[view.name][0] for one in one_by_one]


unique = {"plain": lambda r: (r["at"], r["_id"]), "corrected": lambda r: (r["at"], r["_id"], r["at"] + r["delay"])}


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@settings(max_examples=25)
@given(data=st.data())
def test_streamed_in_any_order_a_read_is_the_definition(view: View, data: st.DataObject) -> None:
    rows = data.draw(st.lists(row, max_size=9, unique_by=unique[view.source.name]))
    # A version keeps its entity: it is the same event.
    shops = {(r["at"], r["_id"]): r["shop"] for r in rows}
    rows = [{**r, "shop": shops[r["at"], r["_id"]], "told": r["at"] + r["delay"]} for r in rows]
    splits = data.draw(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=3))
    moments = st.integers(-8, 14) | st.integers(-3_642, -3_610)
    asked = data.draw(st.lists(moments.map(lambda s: s * US_PER_S), min_size=1, max_size=6))
    check(view, rows, data.draw(st.randoms(use_true_random=False)), splits, asked)


def test_a_correction_does_not_rewrite_what_was_known(tmp_path: Path) -> None:
    view = windows_of(corrected, "versions")
    first = {"shop": "a", "at": 0, "told": 0, "price": 1.0, "stock": 1, "open": True, "_id": 1}
    again = {**first, "told": 3 * US_PER_S, "price": 3.0}
    reader = streamed(view, [(False, [again]), (True, [first])], Registry(tmp_path))
    found = reader.read([view.ref], {"shop": ["a"] * 2}, [2 * US_PER_S, 3 * US_PER_S])
    assert found.columns["versions.total"] == [1.0, 3.0]
    assert found.columns["versions.sold"] == [1, 1]


def test_a_row_that_became_known_later_is_missing(tmp_path: Path) -> None:
    view = rows_of(corrected, "corrected_rows")
    late = {"shop": "a", "at": 0, "told": 5 * US_PER_S, "price": 1.0, "stock": 1, "open": True, "_id": 1}
    reader = streamed(view, [(False, [late])], Registry(tmp_path))
    found = reader.read([view.ref], {"shop": ["a"] * 2}, [5 * US_PER_S - 1, 5 * US_PER_S])
    assert found.status["corrected_rows"] == ["missing", "ok"]
    assert found.columns["corrected_rows.price"] == [None, 1.0]
