"""The encoding: the same bytes for a row alone, in a batch, as lists and as Arrow; and what it refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.model.inputs import CLIP, FEW_ROWS, NULL, UNSEEN, InputEncoding
from mlplat.model.signature import Field
from tests.model.support import encoding_of, rows_of

FIELDS = (
    Field(name="v.a", dtype="float64"),
    Field(name="v.b", dtype="float64"),
    Field(name="n", dtype="int64"),
    Field(name="s", dtype="string"),
    Field(name="f", dtype="bool"),
)
SCHEMA = pa.schema(
    [("v.a", pa.float64()), ("v.b", pa.float64()), ("n", pa.int64()), ("s", pa.string()), ("f", pa.bool_())]
)
TABLE = pa.table(
    {
        "v.a": [1.0, 2.0, None, math.nan, 5.0, 6.0] * 5,
        "v.b": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] * 5,
        "n": [1, 2, 3, 4, 5, 6] * 5,
        "s": ["x", "y", "x", "y", "x", None] * 5,
        "f": [True, False, True, False, True, None] * 5,
    },
    schema=SCHEMA,
)
ENCODING = InputEncoding.fit(TABLE, FIELDS)

_NUMBER = st.one_of(st.none(), st.floats(width=64), st.just(3.5))
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "v.a": _NUMBER,
            "v.b": _NUMBER,
            "n": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            "s": st.one_of(st.none(), st.sampled_from(["x", "y", "zebra", ""])),
            "f": st.one_of(st.none(), st.booleans()),
        }
    ),
    min_size=1,
    max_size=2 * FEW_ROWS,
)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in SCHEMA.names}


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(_ROWS)
def test_a_row_has_the_same_bytes_alone_in_lists_and_in_a_table(rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    numbers, codes = ENCODING.encode(table)
    listed = ENCODING.encode(_columns(rows))
    assert (numbers.tobytes(), codes.tobytes()) == (listed[0].tobytes(), listed[1].tobytes())
    for i, row in enumerate(rows):
        one_numbers, one_codes = ENCODING.encode(_columns([row]))
        assert one_numbers.tobytes() == numbers[i].tobytes()
        assert one_codes.tobytes() == codes[i].tobytes()
    assert np.isfinite(numbers).all()
    assert np.abs(numbers).max() <= CLIP


def test_shapes_and_types_are_what_a_network_takes() -> None:
    numbers, codes = ENCODING.encode(TABLE)
    assert (numbers.dtype, numbers.shape) == (np.float32, (30, ENCODING.width))
    assert (codes.dtype, codes.shape) == (np.int64, (30, 2))
    assert ENCODING.width == 4  # three numbers, and the indicator of the only one that training showed as null
    assert ENCODING.slots == (4, 4)
    assert codes.max(axis=0).tolist() == [3, 3]


def test_known_numbers_are_standardised_and_missing_ones_become_the_mean() -> None:
    numbers, _ = ENCODING.encode(TABLE)
    present = numbers[~np.isin(np.arange(30) % 6, [2, 3]), 0].astype(float)
    assert abs(present.mean()) < 1e-6
    assert abs(present.std() - 1) < 1e-6
    assert numbers[2].tolist()[0] == numbers[3].tolist()[0] == 0.0
    assert numbers[:6, 3].tolist() == [0, 0, 1, 1, 0, 0]


def test_null_and_unseen_have_slots_of_their_own() -> None:
    _, codes = ENCODING.encode(
        {"v.a": [1.0] * 3, "v.b": [1.0] * 3, "n": [1] * 3, "s": [None, "new", "x"], "f": [None, True, False]}
    )
    assert codes.tolist() == [[NULL, NULL], [UNSEEN, 3], [2, 2]]


def test_rare_values_share_the_unseen_slot() -> None:
    table = pa.table({"s": ["often"] * 9 + ["once"]})
    encoding = InputEncoding.fit(table, (Field(name="s", dtype="string"),))
    assert encoding.categorical[0].vocabulary == ("often",)
    assert encoding.encode({"s": ["once"]})[1].tolist() == [[UNSEEN]]


def test_a_constant_and_an_empty_column_encode_to_zero() -> None:
    table = pa.table({"a": pa.array([3.0, 3.0]), "b": pa.array([None, None], pa.float64())})
    encoding = InputEncoding.fit(table, (Field(name="a", dtype="float64"), Field(name="b", dtype="float64")))
    assert encoding.encode(table)[0].tolist() == [[0, 0, 1], [0, 0, 1]]


def test_json_keeps_the_encoding() -> None:
    again = InputEncoding.from_json(json.loads(json.dumps(ENCODING.to_json())))
    assert again == ENCODING
    assert again.encode(TABLE)[0].tobytes() == ENCODING.encode(TABLE)[0].tobytes()


def test_numpy_columns_and_no_rows_are_fine() -> None:
    columns = {
        "v.a": np.array([1.0]),
        "v.b": np.array([1.0]),
        "n": np.array([1]),
        "s": np.array(["x"]),
        "f": np.array([True]),
    }
    assert ENCODING.encode(columns)[1].tolist() == [[2, 3]]
    assert ENCODING.encode(TABLE.slice(0, 0))[0].shape == (0, 4)
    assert ENCODING.encode({name: [] for name in SCHEMA.names})[0].shape == (0, 4)


@pytest.mark.parametrize("rows", [1, 2 * FEW_ROWS])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v.a", "1.0"),
        ("v.a", True),
        ("n", "3"),
        ("n", [1]),
        ("s", 3),
        ("s", True),
        ("f", 1),
        ("f", "true"),
        ("n", 10**400),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_name(rows: int, name: str, value: object) -> None:
    good = {"v.a": 1.0, "v.b": 1.0, "n": 1, "s": "x", "f": True}
    columns = {key: [value if key == name else item] * rows for key, item in good.items()}
    with pytest.raises(InvalidInput, match="input"):
        ENCODING.encode(columns)


def test_a_missing_column_is_refused_by_name() -> None:
    for columns in (TABLE.drop_columns(["s"]), {"v.a": [1.0], "v.b": [1.0], "n": [1], "f": [True]}, {"s": ["x"]}):
        with pytest.raises(InvalidInput, match="missing"):
            ENCODING.encode(columns)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(InvalidInput, match="rows"):
        ENCODING.encode({"v.a": [1.0, 2.0], "v.b": [1.0], "n": [1, 2], "s": ["x", "y"], "f": [True, False]})


def test_a_timestamp_is_no_input_for_now() -> None:
    table = pa.table({"t": pa.array([0], pa.timestamp("us", tz="UTC"))})
    with pytest.raises(InvalidInput, match="'t' is a timestamp"):
        InputEncoding.fit(table, (Field(name="t", dtype="timestamp"),))


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize(("numbers", "slots"), [(0, (4,)), (2, ()), (2, (4, 5))])
def test_few_rows_have_the_shape_of_many(rows: int, numbers: int, slots: tuple[int, ...]) -> None:
    encoding = encoding_of(numbers, slots)
    found = encoding.encode(rows_of(encoding, rows))
    assert [part.shape for part in found] == [(rows, numbers), (rows, len(slots))]
    assert [part.dtype for part in found] == [np.float32, np.int64]
