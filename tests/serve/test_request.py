from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.model.signature import Field, Signature
from mlplat.serve.http import HttpError
from mlplat.serve.request import MAX_ROWS, MAX_STRING, Parser
from tests.serve.models import ROW, SIGNATURE

NOW_US = 1_000_000
SCHEDULED_US = 1_378_029_600_000_000
PARSER = Parser(SIGNATURE)


def body(*rows: Any, **envelope: Any) -> bytes:
    return json.dumps({"rows": list(rows), **envelope}).encode()


def refused(content: bytes, parser: Parser = PARSER) -> HttpError:
    with pytest.raises(HttpError) as error:
        parser.parse(content, now_us=NOW_US)
    return error.value


def test_rows_become_columns() -> None:
    request = PARSER.parse(body(ROW, {**ROW, "origin": "LGA", "seats": None}), now_us=NOW_US)
    assert request.rows == 2
    assert request.columns == {
        "origin": ["JFK", "LGA"],
        "tail": ["N1", "N1"],
        "distance": [1000.0, 1000.0],
        "seats": [180, None],
        "international": [False, False],
        "scheduled": [SCHEDULED_US, SCHEDULED_US],
    }
    assert type(request.columns["distance"][0]) is float


def test_without_at_it_is_now() -> None:
    assert PARSER.parse(body(ROW), now_us=NOW_US).at_us == [NOW_US]


def test_at_holds_for_all_rows_but_those_with_their_own() -> None:
    rows = [ROW, {**ROW, "at": "1970-01-01T01:00:02+01:00"}, {**ROW, "at": None}]
    request = PARSER.parse(body(*rows, at="1970-01-01T00:00:07.000001Z"), now_us=NOW_US)
    assert request.at_us == [7_000_001, 2_000_000, 7_000_001]


def test_a_field_of_the_model_named_at_is_a_field() -> None:
    signature = Signature(entities=(), request=(Field(name="at", dtype="float64"),), features=(), outputs=())
    request = Parser(signature).parse(body({"at": 2}), now_us=NOW_US)
    assert (request.columns["at"], request.at_us) == ([2.0], [NOW_US])


def test_an_optional_field_may_be_left_out_or_null() -> None:
    rows = [
        {"origin": "JFK", "tail": "N1", "distance": 1},
        {"origin": "JFK", "tail": "N1", "distance": 1, "seats": None},
    ]
    assert PARSER.parse(body(*rows), now_us=NOW_US).columns["seats"] == [None, None]


def test_an_entity_key_may_be_null_but_not_left_out() -> None:
    assert PARSER.parse(body({**ROW, "tail": None}), now_us=NOW_US).columns["tail"] == [None]
    (found,) = refused(body({name: value for name, value in ROW.items() if name != "tail"})).fields
    assert (found.field, found.message) == ("tail", "is missing")


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"origin": None}, "origin", "is null"),
        ({"origin": 7}, "origin", "a number, not a string"),
        ({"origin": ["JFK"]}, "origin", "a list, not a string"),
        ({"origin": "x" * (MAX_STRING + 1)}, "origin", f"longer than {MAX_STRING}"),
        ({"distance": None}, "distance", "is null"),
        ({"distance": "1000"}, "distance", "a string, not a number"),
        ({"distance": True}, "distance", "a boolean, not a number"),
        ({"distance": float("nan")}, "distance", "NaN or infinite"),
        ({"distance": float("inf")}, "distance", "NaN or infinite"),
        ({"distance": 10**400}, "distance", "too large|NaN or infinite"),
        ({"seats": 1.5}, "seats", "a number with a fraction, not an integer"),
        ({"seats": True}, "seats", "a boolean, not an integer"),
        ({"seats": float("-inf")}, "seats", "NaN or infinite"),
        ({"seats": 2**63}, "seats", "64 bits"),
        ({"seats": 2**64}, "seats", "not an integer|64 bits"),
        ({"international": 1}, "international", "a number, not true or false"),
        ({"scheduled": 1378029600}, "scheduled", "not an ISO 8601"),
        ({"scheduled": "tomorrow"}, "scheduled", "is not ISO 8601"),
        ({"scheduled": "2013-09-01T10:00:00"}, "scheduled", "no time zone"),
        ({"scheduled": "2013-09-01"}, "scheduled", "no time zone"),
        ({"at": "2013-09-01T10:00:00"}, "at", "no time zone"),
        ({"at": 5}, "at", "not an ISO 8601"),
        ({"orgin": "JFK"}, "orgin", "did you mean 'origin'"),
        ({"zzz": 1}, "zzz", "known: at, distance"),
    ],
)
def test_a_wrong_field_is_named_with_its_row(change: dict[str, Any], field: str, message: str) -> None:
    error = refused(body(ROW, {**ROW, **change}))
    assert (error.status, error.code) == (422, "invalid_fields")
    (found,) = error.fields
    assert (found.field, found.row) == (field, 1)
    assert re.search(message, found.message), found.message
    assert field in error.message


def test_a_missing_field_is_named() -> None:
    (found,) = refused(body({"origin": "JFK", "tail": "N1"})).fields
    assert (found.field, found.row, found.message) == ("distance", 0, "is missing")


def test_all_problems_are_told_at_once_up_to_twenty() -> None:
    assert [f.field for f in refused(body({"distance": "x", "seats": "y"})).fields] == [
        "origin",
        "tail",
        "distance",
        "seats",
    ]
    error = refused(body(*[{}] * 100))
    assert len(error.fields) == 20
    assert "299 more" in error.message


def test_a_wrong_at_of_the_request_has_no_row() -> None:
    (found,) = refused(body(ROW, at="noon")).fields
    assert (found.field, found.row) == ("at", None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"rows",
        b"\xff\xfe",
        b'{"rows": [}',
        b"[" * 100_000,
        b'{"rows": [{"origin": "\\ud800", "tail": null, "distance": 1}]}',
    ],
)
def test_what_is_not_json_is_malformed(content: bytes) -> None:
    error = refused(content)
    assert (error.status, error.code) == (400, "malformed_json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b"{}", "'rows'"),
        (b'{"rows": []}', "one row or more"),
        (b'{"rows": {}}', "'rows'"),
        (b'{"rows": [1]}', "every row is an object"),
        (b'{"row": {}}', "unknown key 'row'"),
        (json.dumps({"rows": [{}] * (MAX_ROWS + 1)}).encode(), "several requests"),
    ],
)
def test_json_that_is_no_request_says_how_one_looks(content: bytes, message: str) -> None:
    error = refused(content)
    assert (error.status, error.code) == (400, "bad_request")
    assert message in error.message


def test_a_bad_name_of_half_a_character_can_still_be_answered() -> None:
    error = refused(b'{"rows": [{"\\ud800": NaN}]}')
    assert json.loads(error.body())["error"]["fields"][0]["field"] == "\ud800"


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1), st.text(max_size=MAX_STRING))
def test_valid_values_arrive_as_they_were_sent(distance: float, seats: int, origin: str) -> None:
    content = json.dumps(
        {"rows": [{"distance": distance, "seats": seats, "origin": origin, "tail": None}]}, ensure_ascii=False
    )
    request = PARSER.parse(content.encode(errors="surrogatepass"), now_us=NOW_US)
    assert (request.columns["distance"], request.columns["seats"], request.columns["origin"]) == (
        [distance],
        [seats],
        [origin],
    )
