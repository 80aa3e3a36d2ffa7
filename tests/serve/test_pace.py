"""The size of calls under an objective, beside a server that needs a while for a call and for each of its rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.serve.pace import CALL_SHARE, STEP_ROWS, Pace

MOST_ROWS, MOST_WAITING = 256, 4_096
LIMIT_S = 0.05


def paced() -> Pace:
    return Pace(LIMIT_S, most_rows=MOST_ROWS, most_waiting=MOST_WAITING)


def busy(pace: Pace, calls: int, call_s: float, row_s: float) -> list[int]:
    """So many calls, each as large as it may be. How large they were."""
    sizes = []
    for _ in range(calls):
        sizes.append(pace.rows)
        pace.ended(pace.rows, call_s + row_s * pace.rows, 1)
    return sizes


PACES = [st.floats(0.0, 0.02), st.floats(1e-6, 0.02)]


@pytest.mark.slow
@given(*PACES)
def test_a_busy_server_gets_calls_that_end_in_time_and_as_large_as_they_may_be(call_s: float, row_s: float) -> None:
    pace = paced()
    sizes = busy(pace, 400, call_s, row_s)[-100:]
    fits = max(1, min(MOST_ROWS, int((LIMIT_S * CALL_SHARE - call_s) / row_s)))  # the oracle: the largest in time
    assert max(sizes) <= fits + STEP_ROWS
    assert max(sizes) >= min(fits, MOST_ROWS) / 2
    assert min(sizes) >= 1


@pytest.mark.slow
@given(*PACES, st.floats(2.0, 20.0))
def test_a_server_that_becomes_slower_gets_smaller_calls_after_few(call_s: float, row_s: float, slower: float) -> None:
    pace = paced()
    busy(pace, 200, call_s, row_s)
    busy(pace, 9, call_s, row_s * slower)  # 256 halved eight times is one
    fits = (LIMIT_S * CALL_SHARE - call_s) / (row_s * slower)
    assert pace.rows <= max(1, fits + 9 * STEP_ROWS)


@given(*PACES)
def test_what_may_wait_is_answered_in_what_is_left_of_the_time(call_s: float, row_s: float) -> None:
    pace = paced()
    sizes = busy(pace, 400, call_s, row_s)
    a_row_s = min((call_s + row_s * rows) / rows for rows in sizes)
    assert pace.rows <= pace.waiting <= max(pace.rows, LIMIT_S * (1 - CALL_SHARE) / a_row_s)


def test_lone_rows_change_nothing_and_a_request_larger_than_a_call_is_not_held_against_it() -> None:
    pace = paced()
    first = pace.rows
    for _ in range(100):
        pace.ended(1, 0.004, 1)
    assert pace.rows == first
    assert pace.waiting == first
    pace.ended(1_000, 9.0, 1)
    assert pace.rows == first


def test_more_calls_at_once_answer_more_of_what_waits() -> None:
    one, four = paced(), paced()
    one.ended(32, 0.01, 1)
    four.ended(32, 0.01, 4)
    assert (one.waiting, four.waiting) == (80, 320)
