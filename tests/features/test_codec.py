"""The bytes of the online store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.errors import Corrupt
from mlplat.features.codec import Events, RowCodec, entity_key

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float64": st.floats(allow_nan=False),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "string": st.text(max_size=6),
    "bool": st.booleans(),
    "timestamp": st.integers(-(2**63), 2**63 - 1),
}
columns = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(lambda d: st.tuples(st.just(d), st.none() | VALUES[d])), max_size=10
)


@settings(max_examples=80, deadline=None)
@given(columns)
def test_a_row_comes_back_as_it_was(typed: list[tuple[Any, Any]]) -> None:
    codec = RowCodec([dtype for dtype, _ in typed])
    row = [value for _, value in typed]
    found = codec.decode(b"head" + codec.encode(row), 4)
    assert found == row
    assert list(map(type, found)) == list(map(type, row))
    assert codec.encode(found) == codec.encode(row)


def test_different_rows_have_different_bytes() -> None:
    codec = RowCodec(["float64", "string", "string"])
    rows: list[list[Any]] = [
        [0.0, "a", "b"], [-0.0, "a", "b"], [None, "a", "b"], [0.0, "ab", ""], [0.0, "", "ab"], [0.0, None, "ab"]
    ]  # fmt: skip
    assert len({codec.encode(row) for row in rows}) == len(rows)


def test_entities_views_and_versions_have_keys_of_their_own() -> None:
    keys = {
        entity_key(view, version, entity)
        for view in ("a", "b")
        for version in ("1", "2")
        for entity in (["x", "y"], ["xy"], ["x,y"], [1], ["1"], [True], [None])
    }
    assert len(keys) == 2 * 2 * 7


def test_a_window_blob_of_another_length_is_corrupt() -> None:
    events = Events(since_us=0, times=np.array([1]), ids=np.array([2]), values=(np.array([3.0]),))
    blob = events.encode()
    assert Events.decode(blob, 1).encode() == blob
    for bad in (blob[:-8], blob + b"12345678", blob[:-1]):
        with pytest.raises(Corrupt, match="a window blob of the online store has"):
            Events.decode(bad, 1)
