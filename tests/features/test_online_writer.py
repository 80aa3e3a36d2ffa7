"""What events change in the online store: the path of a push and the path of a batch write the same."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.features.definitions import View
from mlplat.features.events import Events
from mlplat.features.online_writer import (
    MarkUpdate,
    Update,
    bulk_window_updates,
    latest_updates,
    row_updates,
    window_updates,
)
from mlplat.features.push import Row, to_frame
from mlplat.features.transform import make_rows

source = F.source("sales", key="shop", time="at")
SCHEMA: dict[str, pl.DataType] = {
    "shop": pl.String(), "at": pl.Datetime("us", "UTC"), "price": pl.Float64(), "stock": pl.Int64(), "open": pl.Boolean()
}  # fmt: skip


@F.view(source)
class newest:
    price: float = F.latest("price")
    stock: float = F.latest("stock")
    open: bool = F.latest("open")
    shop_name: str = F.latest("shop")
    age = F.age()


@F.view(source)
class recent:
    total = F.sum("price", window="10s")
    open_now = F.max("open", window="20s")


row = st.fixed_dictionaries(
    {
        "shop": st.sampled_from(["a", "bé", None]),
        "at": st.integers(-3, 3).map(lambda hours: hours * 1_800_000_000),
        "price": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
        "stock": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "open": st.one_of(st.none(), st.booleans()),
        "_id": st.integers(0, 3),
    }
)


def written(updates: list[Update]) -> dict[bytes, bytes]:
    return {key: change(None) for key, change in updates}


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(row, max_size=8, unique_by=lambda r: (r["at"], r["_id"])))
def test_rows_of_a_push_are_written_as_rows_of_a_table(rows: list[Row]) -> None:
    made = make_rows(newest, None, to_frame(rows, SCHEMA))
    assert written(latest_updates(newest, rows)) == written(row_updates(newest, made))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(row, max_size=8, unique_by=lambda r: (r["at"], r["_id"])))
def test_windows_of_a_push_are_written_as_windows_of_a_table(rows: list[Row]) -> None:
    pushed = written(window_updates(recent, rows))
    assert pushed == written(list(bulk_window_updates(recent, to_frame(rows, SCHEMA))))


def apply_all(view: View, batches: list[list[Row]]) -> dict[bytes, bytes]:
    blobs: dict[bytes, bytes] = {}
    for batch in batches:
        for key, change in (window_updates if view.windows else latest_updates)(view, batch):
            blobs[key] = change(blobs.get(key))
    return blobs


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(row, max_size=10, unique_by=lambda r: (r["at"], r["_id"])), st.randoms())
def test_neither_order_nor_repetition_changes_what_is_written(rows: list[Row], random: Any) -> None:
    stream = [[r] for r in [*rows, *rows]]
    random.shuffle(stream)
    for view in (newest, recent):
        assert apply_all(view, stream) == apply_all(view, [rows])


def test_a_blob_says_from_when_on_it_is_whole() -> None:
    hours = [{"shop": "a", "at": h * 3_600_000_000, "price": 1.0, "stock": 1, "open": True, "_id": 0} for h in range(5)]
    (blob,) = apply_all(recent, [hours]).values()
    kept = Events.decode(blob, 2, versions=False)
    assert kept.since_us == (4 * 3600 - 2 * 20 - 3600) * 1_000_000
    assert kept.times.tolist() == [h * 3_600_000_000 for h in (3, 4)]


def test_a_mark_never_goes_back() -> None:
    blob = MarkUpdate(7)(MarkUpdate(9)(None))
    assert MarkUpdate.batch(blob) == 9
    assert MarkUpdate.batch(None) == -1
