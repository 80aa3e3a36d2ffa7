"""The bytes of the online store."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.errors import Corrupt, InvalidInput
from mlplat.features.codec import RowCodec, entity_key, entity_keys, mark_key, view_prefix

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


@pytest.mark.slow
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


key = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=130) | st.just("\0")
entities = st.lists(st.tuples(key), max_size=5) | st.lists(st.tuples(key, key), max_size=5)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(key, min_size=1, max_size=3), max_size=6))
def test_entities_have_keys_of_their_own_that_fit_the_store(entities: list[list[Any]]) -> None:
    different = {tuple((type(value), value) for value in entity) for entity in entities}
    keys = {entity_key("v" * 63, "f" * 12, entity) for entity in entities}
    assert len(keys) == len(different)
    assert all(len(key) <= 511 and key.startswith(view_prefix("v" * 63, "f" * 12)) for key in keys)
    assert mark_key("v" * 63, "f" * 12) not in keys


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(entities)
def test_many_keys_at_once_are_those_of_each(entities: list[tuple[Any, ...]]) -> None:
    prefix = view_prefix("v", "1")
    if entities:
        columns = list(zip(*entities, strict=True))
        assert entity_keys(prefix, columns) == [entity_key("v", "1", entity) for entity in entities]


@pytest.mark.parametrize("column", [["a", "b"], [1, -2], ["a", "a\0b"], ["a", 1], ["x" * 101, "a"]])
def test_the_fast_ways_to_many_keys_give_those_of_each(column: list[Any]) -> None:
    found = entity_keys(view_prefix("v", "1"), [column])
    assert found == [entity_key("v", "1", [value]) for value in column]


def test_views_and_versions_have_keys_of_their_own() -> None:
    keys = {entity_key(view, version, ["x"]) for view in ("a", "b") for version in ("1", "2")}
    assert len(keys) == 4


def test_a_key_that_no_table_has_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"key 1\.0 is float, and a key is text, an integer, or true or false"):
        entity_keys(b"v@1/", [["a", 1.0]])


def test_a_row_that_is_cut_is_corrupt() -> None:
    codec = RowCodec(["float64"])
    with pytest.raises(Corrupt, match="a row blob of the online store has 15 bytes"):
        codec.decode(codec.encode([1.0])[:-1])
