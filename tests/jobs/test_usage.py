from __future__ import annotations

import pytest

from mlplat.jobs.usage import Usage

US = 1_000_000
BY = ("gpu", "a")


def test_half_of_what_was_used_is_forgotten_in_the_half_life_however_often_one_looks() -> None:
    used = Usage(half_life_s=100, seconds={BY: 8.0}).later(100 * US, {})
    assert used.seconds == {BY: pytest.approx(4.0)}
    often = Usage(half_life_s=100, seconds={BY: 8.0})
    for second in range(1, 101):
        often = often.later(second * US, {BY: 0.5})
    once = Usage(half_life_s=100, seconds={BY: 8.0}).later(100 * US, {BY: 0.5})
    assert often.seconds[BY] == pytest.approx(once.seconds[BY])


def test_a_short_time_counts_as_it_is_and_less_than_the_fair_share_as_less_than_nothing() -> None:
    used = Usage().later(10 * US, {BY: 0.5, ("gpu", "b"): -0.25})
    assert used.seconds == {BY: pytest.approx(5.0, rel=1e-3), ("gpu", "b"): pytest.approx(-2.5, rel=1e-3)}


def test_what_begins_counts_at_once() -> None:
    assert Usage().begun(BY, 15.0).begun(BY, 1.0).seconds == {BY: 16.0}


def test_a_clock_that_was_set_back_stands_still() -> None:
    used = Usage().later(10 * US, {BY: 1.0})
    assert used.later(5 * US, {BY: 1.0}) == used
