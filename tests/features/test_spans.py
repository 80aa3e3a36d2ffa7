"""The spans that statistics are kept by."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.features.spans import MAX_SPANS, with_days

EPOCH = date(1970, 1, 1)


def day(year: int, month: int, number: int) -> int:
    return (date(year, month, number) - EPOCH).days


def test_few_days_are_kept_as_days() -> None:
    assert with_days([], [5, 3, -1, 3]) == [(-1, 0), (3, 4), (5, 6)]


def test_the_oldest_months_go_together_first_and_only_as_many_as_need_be() -> None:
    spans = with_days([], range(day(2026, 1, 1), day(2026, 7, 1)))
    assert spans[:3] == [
        (day(2026, 1, 1), day(2026, 2, 1)),
        (day(2026, 2, 1), day(2026, 3, 1)),
        (day(2026, 3, 1), day(2026, 3, 2)),
    ]
    assert len(spans) == 2 + 122


def test_when_months_are_many_the_oldest_years_go_together_and_days_of_late_stay() -> None:
    months = [day(year, month, 1 + at) for year in range(2000, 2026) for month in range(1, 13) for at in (0, 1)]
    spans = with_days([], months)
    assert spans[0] == (day(2000, 1, 1), day(2001, 1, 1))
    assert spans[-1] == (day(2025, 12, 1), day(2026, 1, 1))
    assert len(spans) <= MAX_SPANS


def test_a_late_event_falls_into_the_month_that_has_its_day() -> None:
    january = (day(2026, 1, 1), day(2026, 2, 1))
    assert with_days([january], [day(2026, 1, 20), day(2026, 2, 1)]) == [january, (day(2026, 2, 1), day(2026, 2, 2))]


def test_centuries_are_one_span_before_the_newest_years() -> None:
    spans = with_days([], [day(year, 6, 1) for year in range(1, 9999, 7)])
    assert len(spans) == MAX_SPANS
    assert spans[0] == (day(1, 6, 1), day(9108, 6, 1) + 1)
    assert spans[1:] == [(day(year, 6, 1), day(year, 6, 1) + 1) for year in range(9115, 9999, 7)]


FIRST, LAST = day(1, 1, 1), day(9999, 12, 31)
DAYS = st.lists(
    st.integers(FIRST, LAST) | st.integers(0, 900) | st.integers(0, 200_000).map(lambda n: n // 300 * 300), max_size=300
)


@pytest.mark.slow
@given(batches=st.lists(DAYS, max_size=4))
def test_spans_stay_few_disjoint_and_in_order_cover_every_day_and_never_split_a_known_one(
    batches: list[list[int]],
) -> None:
    spans: list[tuple[int, int]] = []
    seen: set[int] = set()
    for days in batches:
        known, spans = spans, with_days(spans, days)
        seen.update(days)
        assert len(spans) <= MAX_SPANS
        assert all(start < end for start, end in spans)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
        assert all(any(start <= d < end for start, end in spans) for d in seen)
        assert all(any(start <= s and e <= end for start, end in spans) for s, e in known)


def test_a_calendar_is_that_of_utc_also_before_1970() -> None:
    old = [(EPOCH - timedelta(days=at)) for at in range(1, 200)]
    spans = with_days([], [(d - EPOCH).days for d in old])
    assert spans[0] == (day(1969, 6, 1), day(1969, 7, 1))
