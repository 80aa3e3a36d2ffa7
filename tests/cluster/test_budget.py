"""What may still be bought: against a sum over every second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.clock import US_PER_S
from mlplat.cluster.budget import HOUR_US, Bill, decide, spent, window
from mlplat.cluster.spec import Budget
from mlplat.decision import Act, Hold

NOON_US = int(datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp()) * US_PER_S


@pytest.mark.slow
@given(
    began=st.integers(-300, 300),
    ran=st.none() | st.integers(0, 500),
    begin=st.integers(-300, 300),
    length=st.integers(0, 300),
    price=st.floats(0, 100),
)
def test_what_a_machine_cost_is_the_sum_over_its_minutes(
    began: int, ran: int | None, begin: int, length: int, price: float
) -> None:
    minute = 60 * US_PER_S
    bill = Bill(began_us=began * minute, ended_us=None if ran is None else (began + ran) * minute, price=price)
    minutes = sum(began <= m < (begin + length if ran is None else began + ran) for m in range(begin, begin + length))
    assert bill.spent(begin * minute, (begin + length) * minute) == pytest.approx(price * minutes / 60)


@pytest.mark.parametrize(
    ("name", "at", "begin", "end"),
    [
        ("hour", "2026-06-15T12:34:56", "2026-06-15T12:00", "2026-06-15T13:00"),
        ("day", "2026-12-31T23:59:59", "2026-12-31T00:00", "2027-01-01T00:00"),
        ("month", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("month", "2028-02-29T00:00:00", "2028-02-01T00:00", "2028-03-01T00:00"),
    ],
)
def test_windows_are_of_utc(name: str, at: str, begin: str, end: str) -> None:
    moments = [int(datetime.fromisoformat(f"{one}+00:00").timestamp()) * US_PER_S for one in (at, begin, end)]
    assert window(name, moments[0]) == (moments[1], moments[2])


def test_what_was_bought_within_the_budget_stays_within_it_for_an_hour() -> None:
    budget, bills = Budget(per_day=10), []
    while isinstance(decide(budget, bills, price=3, gpus=1, now_us=NOON_US), Act):
        bills.append(Bill(began_us=NOON_US, ended_us=None, price=3))
    assert len(bills) == 3
    assert sum(bill.spent(NOON_US, NOON_US + HOUR_US) for bill in bills) <= 10


def test_the_end_of_a_window_is_not_charged_for_what_comes_after_it() -> None:
    late_us = NOON_US + 50 * 60 * US_PER_S
    assert isinstance(decide(Budget(per_hour=1), [], price=6, gpus=0, now_us=late_us), Act)
    assert isinstance(decide(Budget(per_hour=1), [], price=6.1, gpus=0, now_us=late_us), Hold)


def test_nodes_and_gpus_count_what_runs_now() -> None:
    gone = Bill(began_us=NOON_US, ended_us=NOON_US + 1, price=1, gpus=8)
    there = Bill(began_us=NOON_US, ended_us=None, price=1, gpus=8)
    later_us = NOON_US + int(timedelta(hours=2) / timedelta(microseconds=1))
    assert isinstance(decide(Budget(nodes=1), [gone], price=1, gpus=8, now_us=later_us), Act)
    held = decide(Budget(nodes=1), [gone, there], price=1, gpus=8, now_us=later_us)
    assert held.reason == "1 bought machines run, and the budget has 1"
    assert isinstance(decide(Budget(gpus=16), [there], price=1, gpus=8, now_us=later_us), Act)
    assert isinstance(decide(Budget(gpus=15), [there], price=1, gpus=8, now_us=later_us), Hold)


def test_what_runs_is_given_back_in_time_for_the_cap_and_not_before() -> None:
    """Three machines for 2 an hour each, and 18 a day: after three hours less the time that it takes to give them back."""
    bills = [Bill(began_us=NOON_US, ended_us=None, price=2.0)] * 3
    budget = Budget(per_day=18.0)
    due_us = NOON_US + 3 * HOUR_US - 300 * US_PER_S
    assert not spent(budget, bills, ahead_s=300, now_us=due_us - US_PER_S)
    assert spent(budget, bills, ahead_s=300, now_us=due_us + US_PER_S) == "17.50 of 18 are spent this day"
    midnight_us = NOON_US + 12 * HOUR_US
    assert not spent(budget, bills, ahead_s=300, now_us=midnight_us + US_PER_S)
    ended = [Bill(began_us=NOON_US, ended_us=NOON_US + 3 * HOUR_US, price=2.0)] * 3
    assert not spent(budget, ended, ahead_s=300, now_us=NOON_US + 4 * HOUR_US)  # nothing runs
    assert not spent(Budget(nodes=1), bills, ahead_s=300, now_us=due_us)
