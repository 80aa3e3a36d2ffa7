"""What a table may hold is what a request may hold: the request's parser is the oracle."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.serve.batch_check import AT, asked
from mlplat.serve.http import HttpError
from mlplat.serve.request import Parser
from tests.serve.models import SIGNATURE

NOW_US = 1_378_029_600_000_000
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "origin": st.sampled_from(["JFK", "LGA", ""]),
    "tail": st.none() | st.text(max_size=3),
    "distance": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
    "seats": st.none() | st.integers(-(2**63), 2**63 - 1),
    "international": st.none() | st.booleans(),
    "scheduled": st.none() | TIMES,
}
KINDS = {
    "origin": pl.String,
    "tail": pl.String,
    "distance": pl.Float64,
    "seats": pl.Int64,
    "international": pl.Boolean,
    "scheduled": pl.Datetime("us", "UTC"),
}


def check(frame: pl.DataFrame, *, time: str | None = None, first: int = 0) -> pl.DataFrame:
    return asked(frame, SIGNATURE, time=time, now_us=NOW_US, first=first)


@pytest.mark.slow
@given(st.data())
def test_a_table_is_taken_as_its_rows_would_be(data: st.DataObject) -> None:
    columns = data.draw(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1).map(sorted))
    maybe = {name: st.none() | FIELDS[name] if data.draw(st.booleans()) else FIELDS[name] for name in columns}
    rows = data.draw(st.lists(st.fixed_dictionaries(maybe), min_size=1, max_size=6))
    frame = pl.DataFrame(rows, schema={name: KINDS[name] for name in columns}, strict=False)
    try:
        wanted = Parser(SIGNATURE).parse(orjson.dumps({"rows": rows}), now_us=NOW_US)
    except HttpError as error:
        with pytest.raises(InvalidInput) as caught:
            check(frame)
        named = {(f"field {one.field!r}", f"row {one.row} {one.message}") for one in error.fields}
        assert any(
            field in str(caught.value) and (row in str(caught.value) or "missing" in row) for field, row in named
        )
        return
    found = check(frame)
    assert found[AT].to_physical().to_list() == list(wanted.at_us)
    for name, values in wanted.columns.items():
        assert found[name].to_physical().to_list() == list(values)


GOOD = pl.DataFrame({"origin": ["JFK"] * 4, "tail": ["N1", None, "N2", "N3"], "distance": [1.0, 2.0, 3.0, 4.0]})


def with_(name: str, values: list[Any], dtype: Any = None) -> pl.DataFrame:
    return GOOD.with_columns(pl.Series(name, values, dtype=dtype))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (GOOD.drop("origin"), "field 'origin' is missing: the table has no such column (text), but tail, distance"),
        (GOOD.drop("tail"), "field 'tail' is missing"),
        (GOOD.drop("distance"), "field 'distance' is missing"),
        (with_("distance", [1.0, None, None, 1.0]), "field 'distance' of row 11 is null (at least 1 more)"),
        (with_("distance", [1.0, 1.0, math.nan, 1.0]), "field 'distance' of row 12 is null"),
        (with_("distance", [1.0, math.inf, 1.0, 1.0]), "field 'distance' of row 11 is infinite: give null"),
        (with_("distance", ["a", "b", "c", "d"]), "field 'distance' of row 10 is String, not a number"),
        (with_("distance", [True] * 4), "field 'distance' of row 10 is Boolean, not a number"),
        (with_("seats", [1.0, None, 2.5, 3.0]), "field 'seats' of row 12 is not an integer of 64 bits"),
        (with_("seats", [2**63, 1, 1, 1], pl.UInt64), "field 'seats' of row 10 does not fit into 64 bits"),
        (with_("seats", [None, None, "x", None]), "field 'seats' of row 12 is String, not an integer"),
        (with_("tail", [1, 2, 3, 4]), "field 'tail' of row 10 is Int64, not text"),
        (with_("international", [0, 1, 0, 1]), "field 'international' of row 10 is Int64, not true or false"),
        (with_("scheduled", [datetime(2026, 1, 1)] * 4), "field 'scheduled' of row 10 is Datetime(time_unit='us'"),
        (
            with_("scheduled", ["2026-01-01T00:00:00Z", "soon", None, None]),
            "field 'scheduled' of row 11 cannot be read",
        ),
        (with_("origin", ["JFK", None, "LGA", None]), "field 'origin' of row 11 is null"),
    ],
)
def test_what_is_wrong_is_said_with_column_and_row(frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(frame, first=10)
    assert message in str(caught.value)


def test_what_a_caller_may_leave_out_is_null() -> None:
    found = check(GOOD)
    assert found.columns == ["origin", "tail", "distance", "seats", "international", "scheduled", AT]
    assert found["seats"].to_list() == [None] * 4
    assert found.schema["scheduled"] == pl.Datetime("us", "UTC")


def test_tables_of_other_kinds_are_read_as_what_they_mean() -> None:
    frame = pl.DataFrame(
        {
            "origin": pl.Series(["JFK", "LGA"], dtype=pl.Categorical),
            "tail": [None, None],
            "distance": pl.Series([1, 2], dtype=pl.Int32),
            "seats": [3.0, math.nan],
            "scheduled": ["2026-01-01T01:00:00+01:00", None],
        }
    )
    found = check(frame)
    assert found["origin"].to_list() == ["JFK", "LGA"]
    assert found["distance"].to_list() == [1.0, 2.0]
    assert found["seats"].to_list() == [3, None]
    assert found["scheduled"].to_list() == [datetime(2026, 1, 1, tzinfo=UTC), None]
    pandas = pd.DataFrame({"origin": ["JFK"], "tail": [None], "distance": [1]})
    assert check(pl.DataFrame(pandas)).height == 1


def test_a_row_has_its_moment_or_all_have_one() -> None:
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=i) for i in range(4)]
    frame = with_("when", times).with_columns(pl.col("when").dt.convert_time_zone("Europe/Paris"))
    assert check(frame, time="when")[AT].to_list() == times
    assert set(check(frame)[AT].to_physical()) == {NOW_US}
    with pytest.raises(InvalidInput, match="field 'when' is missing"):
        check(GOOD, time="when")
    with pytest.raises(InvalidInput, match="field 'when' of row 1 is null"):
        check(with_("when", [times[0], None, *times[:2]]), time="when")


def test_no_rows_are_no_questions() -> None:
    assert check(GOOD.clear()).is_empty()
