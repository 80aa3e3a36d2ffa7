"""A pushed row has the same normal form, and meets the same refusals, as a row of a batch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.errors import BatchRefused
from mlplat.features.push import normal_rows, to_frame
from mlplat.features.validate import clean
from tests.features.support import START, START_US

with_id = F.source("a", key="shop", time="at", id="order")
timed_id = F.source("a", key="shop", time="at", id="seen")
whole_row = F.source("a", key="shop", time="at")
corrected = F.source("a", key=("shop", "order"), time="at", created="seen", zone="America/New_York")
corrected_id = F.source("a", key="shop", time="at", created="seen", id="order", zone="Europe/London")

SOURCES = [with_id, timed_id, whole_row, corrected, corrected_id]
SCHEMA: dict[str, pl.DataType] = {
    "shop": pl.String(),
    "order": pl.Int64(),
    "at": pl.Datetime("us", "UTC"),
    "price": pl.Float64(),
    "open": pl.Boolean(),
    "seen": pl.Datetime("us", "UTC"),
}

zones = st.sampled_from([UTC, timezone(timedelta(hours=-5, minutes=-30)), timezone(timedelta(hours=14))])
times = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=zones)
rows_of_batches = st.fixed_dictionaries(
    {
        "shop": st.text(max_size=5),
        "order": st.integers(-(2**63), 2**63 - 1),
        "at": times,
        "price": st.one_of(st.none(), st.floats(allow_infinity=False)),
        "open": st.one_of(st.none(), st.booleans()),
        "seen": times,
    }
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(rows_of_batches, min_size=1, max_size=6),
    st.sampled_from([with_id, timed_id, whole_row, corrected, corrected_id]),
)
def test_the_normal_form_of_a_push_is_that_of_a_batch(rows: list[dict[str, Any]], source: F.Source) -> None:
    frame = pl.DataFrame(rows, schema_overrides=SCHEMA, infer_schema_length=None)
    batch = clean(source, frame, SCHEMA)
    pushed = to_frame(normal_rows(source, rows, SCHEMA), SCHEMA)
    assert pushed.equals(batch, null_equal=True)
    assert pushed.schema == batch.schema


local_times = st.one_of(
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    st.sampled_from(
        [datetime(2013, 3, 10), datetime(2013, 3, 31), datetime(2013, 10, 27), datetime(2013, 11, 3)]
    ).flatmap(lambda day: st.integers(0, 4 * 3600 - 1).map(lambda s: day + timedelta(seconds=s))),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(local_times, local_times, st.sampled_from([corrected, corrected_id]), st.booleans())
def test_a_time_without_a_zone_is_read_or_refused_alike(
    at: datetime, seen: datetime, source: F.Source, text: bool
) -> None:
    row = {**GOOD, "at": at.isoformat() if text else at, "seen": seen}
    frame = pl.DataFrame([row])
    batch = told(lambda: clean(source, frame, SCHEMA))
    pushed = told(lambda: to_frame(normal_rows(source, [row], SCHEMA), SCHEMA))
    if isinstance(batch, pl.DataFrame):
        assert isinstance(pushed, pl.DataFrame)
        assert pushed.equals(batch)
        zone = ZoneInfo(str(source.zone))
        wanted = [time.replace(tzinfo=zone, fold=fold).astimezone(UTC) for time in (at, seen) for fold in (0, 1)]
        assert [*batch["at"].to_list() * 2, *batch["seen"].to_list() * 2] == wanted
    else:
        assert pushed == batch
        bad = [name for name, time in (("at", at), ("seen", seen)) if _ambiguous(time, str(source.zone))]
        assert batch == bad


def _ambiguous(time: datetime, zone: str) -> bool:
    """Python's own rule (PEP 495): the two readings of the time differ."""
    first, second = (time.replace(tzinfo=ZoneInfo(zone), fold=fold).utcoffset() for fold in (0, 1))
    return first != second


texts = st.one_of(
    times.map(lambda t: t.isoformat()),
    times.map(lambda t: t.isoformat(" ").replace("+00:00", "Z")),
    st.sampled_from(
        [
            "2013-09-01T10:00Z",
            "2013-09-01 10:00+0530",
            "1969-12-31T23:59:59.123456789Z",
            "2013-09-01T23:59:60Z",
            "2013-09-01T24:00:00Z",
            "2013-02-30T00:00:00Z",
            "2013-09-01",
            "2013-09-01T10:00:00",
            "20130901T100000Z",
            "2013-W01-1T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "2013-09-01T10:00:00+05:75",
            "2013-09-01t10:00:00z",
            "NA",
            "",
        ]
    ),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(texts)
def test_a_time_as_text_is_read_or_refused_alike(text: str) -> None:
    row = {"shop": "x", "order": 1, "at": text, "price": 1.0, "open": True, "seen": START}
    frame = pl.DataFrame([row])
    batch = told(lambda: clean(with_id, frame, SCHEMA))
    pushed = told(lambda: to_frame(normal_rows(with_id, [row], SCHEMA), SCHEMA))
    if isinstance(batch, pl.DataFrame):
        assert isinstance(pushed, pl.DataFrame)
        assert pushed.equals(batch)
    else:
        assert pushed == batch == ["at"]


def told(read: Callable[[], pl.DataFrame]) -> pl.DataFrame | list[str]:
    """What was read, or the fields that were refused."""
    try:
        return read()
    except BatchRefused as error:
        return [problem.field for problem in error.problems]


GOOD: dict[str, Any] = {"shop": "x", "order": 1, "at": START, "price": 1.0, "open": True, "seen": START}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shop": None}, "shop: is null (1 rows: 1)"),
        ({"shop": 3}, "shop: is 3, and the table has text (1 rows: 1)"),
        ({"shop": "\ud800"}, "surrogates not allowed"),
        ({"order": 1.5}, "order: is 1.5, and the table has 64-bit integers"),
        ({"order": 2**63}, "order: is 9223372036854775808, and the table has 64-bit integers"),
        ({"order": True}, "order: is True, and the table has 64-bit integers"),
        ({"price": "cheap"}, "price: is 'cheap', and the table has floats"),
        ({"price": 10**400}, "and the table has 64-bit integers"),
        ({"price": float("inf")}, "price: is infinite; a table has finite numbers and nulls"),
        ({"open": 1}, "open: is 1, and the table has true or false"),
        ({"at": START.replace(tzinfo=None)}, "at: 2013-09-01T00:00:00 has no time zone"),
        ({"at": "yesterday"}, "at: 'yesterday' cannot be read as ISO 8601 with a zone"),
        ({"at": 12}, "at: is 12, and the table has timestamps"),
        ({"at": pd.NaT}, "at: is null"),
        ({"colour": "red"}, "colour: the table has no such column"),
    ],
)
def test_a_bad_row_is_refused_with_its_field_and_position(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchRefused) as refused:
        normal_rows(with_id, [GOOD, {**GOOD, **change}], SCHEMA)
    assert message in str(refused.value)
    assert [problem.rows for problem in refused.value.problems] == [(1,)]


def test_a_missing_key_is_refused_and_a_missing_value_is_null() -> None:
    with pytest.raises(BatchRefused, match="shop: is missing"):
        normal_rows(with_id, [{k: v for k, v in GOOD.items() if k != "shop"}], SCHEMA)
    assert normal_rows(with_id, [{k: v for k, v in GOOD.items() if k != "price"}], SCHEMA)[0]["price"] is None


def test_every_problem_of_a_push_is_told_at_once() -> None:
    with pytest.raises(BatchRefused) as refused:
        normal_rows(with_id, [{**GOOD, "shop": None}, {**GOOD, "price": "x"}], SCHEMA)
    assert [(p.field, p.rows) for p in refused.value.problems] == [("shop", (0,)), ("price", (1,))]


def test_what_is_finer_than_a_microsecond_is_floored_on_both_paths() -> None:
    for text in ("1969-12-31T23:59:59.999999999Z", "2013-09-01T00:00:00.000001999Z"):
        given_row = {**GOOD, "at": text}
        pushed = normal_rows(with_id, [given_row], SCHEMA)[0]["at"]
        nanos = pd.Timestamp(text)
        assert pushed == normal_rows(with_id, [{**GOOD, "at": nanos}], SCHEMA)[0]["at"] == nanos.value // 1000
        for column in (pl.Series([text]), pl.Series([nanos.value]).cast(pl.Datetime("ns", "UTC"))):
            batch = clean(with_id, pl.DataFrame([GOOD]).with_columns(at=column), SCHEMA)
            assert batch["at"].to_physical().to_list() == [pushed]


def test_values_of_numpy_and_pandas_are_taken_as_what_they_are() -> None:
    given_row = {
        **GOOD,
        "order": np.int32(1),
        "price": np.float32(1.0),
        "open": np.bool_(True),
        "at": pd.Timestamp(START),
        "seen": pd.NaT,
    }
    assert normal_rows(with_id, [given_row], SCHEMA) == normal_rows(with_id, [{**GOOD, "seen": None}], SCHEMA)
    assert normal_rows(with_id, [GOOD], SCHEMA)[0]["at"] == START_US
    assert normal_rows(with_id, [{**GOOD, "price": float("nan")}], SCHEMA)[0]["price"] is None
