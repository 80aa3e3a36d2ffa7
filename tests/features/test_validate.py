"""A bad batch is refused whole with its columns and rows; a good one comes out in normal form."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mlplat import features as F
from mlplat.errors import BatchRefused, InvalidInput
from mlplat.features.validate import clean, to_frame
from tests.features.support import START, after

source = F.source("sales", key="shop", time="at", id="order")
GOOD = pl.DataFrame({"shop": ["a", "b"], "order": [1, 2], "at": [after(1), after(2)], "price": [1.0, None]})
SCHEMA = dict(GOOD.schema)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (GOOD.drop("shop"), "shop: a key of the source, is missing; the batch has order, at, price"),
        (GOOD.drop("at"), "at: the event time of the source, is missing"),
        (GOOD.drop("order"), "order: the event id of the source, is missing"),
        (GOOD.drop("price"), "price: is missing; the table has it as Float64"),
        (GOOD.with_columns(shop=pl.Series(["a", None])), "shop: is null (1 rows: 1)"),
        (GOOD.with_columns(order=pl.Series([None, 2])), "order: is null (1 rows: 0)"),
        (GOOD.with_columns(at=pl.Series([None, after(1)])), "at: is null (1 rows: 0)"),
        (GOOD.with_columns(at=pl.lit(None)), "at: is null (2 rows: 0, 1)"),
        (GOOD.with_columns(at=pl.Series(["2013-09-01T00:00:00Z", "soon"])), "at: cannot be read as ISO 8601 with a zone"),
        (GOOD.with_columns(at=pl.col("at").dt.replace_time_zone(None)), "at: has no time zone; say which"),
        (GOOD.with_columns(at=pl.lit(3)), "at: is Int32, and an event time is a timestamp with a zone"),
        (GOOD.with_columns(price=pl.lit("x")), "price: is String, and the table has it as Float64"),
        (GOOD.with_columns(order=pl.lit(1.5)), "order: is Float64, and the table has it as Int64"),
        (GOOD.with_columns(price=pl.Series([1.0, float("inf")])), "price: is infinite; a table has finite numbers and"),
        (GOOD.with_columns(colour=pl.lit("red")), "colour: the table has no such column"),
        (GOOD.with_columns(_id=pl.lit(1)), "_id: names that begin with _ are reserved"),
    ],
)  # fmt: skip
def test_a_bad_batch_is_refused_by_name(change: pl.DataFrame, message: str) -> None:
    with pytest.raises(BatchRefused) as refused:
        clean(source, change, SCHEMA)
    assert message in str(refused.value)
    assert len({problem.field for problem in refused.value.problems}) == len(refused.value.problems) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (GOOD.with_columns(price=pl.lit(None)), "price: has only nulls, so it has no type yet"),
        (GOOD.with_columns(day=pl.lit(START.date())), "day: is Date, which no table holds: cast it to one of String, "),
        (GOOD.with_columns(shop=pl.lit(1.5)), "shop: is Float64, and a key is text, an integer, or true or false"),
    ],
)
def test_the_first_batch_must_have_types_that_a_table_holds(change: pl.DataFrame, message: str) -> None:
    with pytest.raises(BatchRefused) as refused:
        clean(source, change, None)
    assert message in str(refused.value)


def test_unreadable_times_name_their_rows() -> None:
    frame = pl.DataFrame({"shop": ["a"] * 9, "order": range(9), "at": ["2013-09-01T00:00:00Z", *["NA"] * 8]})
    with pytest.raises(BatchRefused) as refused:
        clean(source, frame, None)
    (problem,) = refused.value.problems
    assert (problem.field, problem.rows, problem.count) == ("at", (1, 2, 3, 4, 5), 8)
    assert str(problem).endswith("(8 rows: 1, 2, 3, 4, 5, ...)")


def test_nan_becomes_null_and_narrow_types_become_wide() -> None:
    narrow = GOOD.with_columns(price=pl.Series([float("nan"), 2.5], dtype=pl.Float32)).cast(
        {"shop": pl.Categorical(), "order": pl.UInt16(), "at": pl.Datetime("ns", "America/New_York")}
    )
    made = clean(source, narrow, None)
    assert dict(made.schema) == {**SCHEMA, "_id": pl.Int64()}
    assert made["price"].to_list() == [None, 2.5]
    assert made["at"].to_list() == GOOD["at"].to_list()


def test_integers_and_nulls_fit_a_column_of_floats() -> None:
    made = clean(source, GOOD.with_columns(price=pl.Series([3, None])), SCHEMA)
    assert made["price"].to_list() == [3.0, None]
    assert clean(source, GOOD.with_columns(price=pl.lit(None)), SCHEMA)["price"].to_list() == [None, None]


def test_every_kind_of_table_gives_the_same_frame(tmp_path: Path) -> None:
    plain = GOOD.with_columns(price=pl.Series([1.0, 2.0]))
    plain.write_parquet(tmp_path / "folder" / "one.parquet", mkdir=True)
    plain.with_columns(at=pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S+00:00")).write_csv(tmp_path / "one.csv")
    kinds: list[Any] = [
        plain,
        plain.lazy(),
        plain.to_arrow(),
        pd.DataFrame(plain.to_dict(as_series=False)),
        plain.to_dicts(),
        plain.to_dict(as_series=False),
        tmp_path / "folder" / "one.parquet",
        str(tmp_path / "folder"),
        str(tmp_path / "*.csv"),
        plain.to_arrow().to_reader(),
        ds.dataset(plain.to_arrow()),
        tmp_path / "one.csv",
    ]
    wanted = clean(source, plain, None)
    for kind in kinds:
        assert clean(source, to_frame(kind), None).equals(wanted), kind


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.parquet", "there is no file or folder 'nowhere.parquet'"),
        (object(), "object is not a table that can be read"),
        ([{"a": 1}, {"a": "x"}], "the rows do not make a table: column 'a' has int and str"),
        ([{"a": True}, {"a": 2}], "the rows do not make a table: column 'a' has bool and int"),
        (
            [{"a": START}, {"a": START.replace(tzinfo=None)}],
            "column 'a' has times with a zone and times without a zone",
        ),
        ([{"a": 1}, ("a", 2)], "the rows do not make a table: row 1 is tuple, and a row is a dict"),
    ],
)
def test_what_is_no_table_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        to_frame(given)


def test_rows_may_have_times_of_several_zones_and_scalars_of_numpy() -> None:
    eastern = START.astimezone(ZoneInfo("America/New_York"))
    made = to_frame([{"a": eastern, "b": np.int64(1)}, {"a": START, "b": 2.5}, {"a": pd.NaT, "b": None}])
    assert made.to_dict(as_series=False) == {"a": [START, START, None], "b": [1.0, 2.5, None]}


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"no parquet at all")
    for path in (tmp_path / "bad.parquet", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be read"):
            to_frame(path)


def test_an_arrow_table_with_nanoseconds_is_floored_to_microseconds() -> None:
    times = pa.array([1_001, -1], type=pa.timestamp("ns", tz="UTC"))
    made = clean(source, to_frame(pa.table({"shop": ["a", "b"], "order": [1, 2], "at": times})), None)
    assert made["at"].to_physical().to_list() == [1, -1]
