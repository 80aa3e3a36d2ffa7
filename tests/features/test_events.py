"""The bytes of a window's events, and what of them was known when."""

from __future__ import annotations

import numpy as np
import pytest

from mlplat.errors import Corrupt
from mlplat.features.events import ALWAYS_US, Events


def events(*rows: tuple[int, int, int, float], since_us: int = ALWAYS_US) -> Events:
    times, ids, created, values = (np.array(column) for column in zip(*rows, strict=True))
    return Events(since_us=since_us, times=times, ids=ids, created=created, values=(values.astype(float),))


def plain(found: Events) -> list[tuple[int, int, int, float]]:
    assert found.created is not None
    columns = (found.times, found.ids, found.created, found.values[0])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_blob_of_another_length_is_corrupt() -> None:
    one = Events(since_us=0, times=np.array([1]), ids=np.array([2]), values=(np.array([3.0]),))
    blob = one.encode()
    assert Events.decode(blob, 1, versions=False).encode() == blob
    for bad in (blob[:-8], blob + b"12345678", blob[:-1]):
        with pytest.raises(Corrupt, match="a window blob of the online store has"):
            Events.decode(bad, 1, versions=False)


def test_only_a_source_with_created_pays_for_it() -> None:
    without = Events(since_us=0, times=np.array([1]), ids=np.array([2]), values=(np.array([3.0]),))
    assert len(events((1, 2, 3, 4.0)).encode()) == len(without.encode()) + 8


def test_every_version_of_an_event_is_kept_once() -> None:
    first, again = events((1, 7, 10, 1.0), (1, 7, 20, 2.0)), events((1, 7, 20, 2.0), (1, 7, 15, 3.0))
    merged = first.merged(again, keep_us=100)
    assert plain(merged) == [(1, 7, 10, 1.0), (1, 7, 15, 3.0), (1, 7, 20, 2.0)]
    assert plain(Events.decode(merged.encode(), 1, versions=True)) == plain(merged)


def test_known_is_the_last_version_until_then_in_order_of_time_created_and_id() -> None:
    held = events((1, 7, 10, 1.0), (1, 7, 20, 2.0), (1, 8, 15, 3.0), (2, 5, 12, 4.0), (2, 5, 99, 5.0))
    assert plain(held.known(9)) == []
    assert plain(held.known(12)) == [(1, 7, 10, 1.0), (2, 5, 12, 4.0)]
    assert plain(held.known(20)) == [(1, 8, 15, 3.0), (1, 7, 20, 2.0), (2, 5, 12, 4.0)]
