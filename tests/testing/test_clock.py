"""A manual clock stands still between advances, and never goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlplat.errors import InvalidInput
from mlplat.testing.clock import ManualClock


def test_it_goes_when_it_is_told_to() -> None:
    clock = ManualClock(datetime(1970, 1, 2, tzinfo=UTC))
    assert (clock.now_us(), clock.elapsed_s()) == (86_400_000_000, 0.0)
    clock.advance(timedelta(seconds=1, microseconds=5))
    assert clock.now_us() == 86_401_000_005
    assert clock.elapsed_s() == pytest.approx(1.000005)


def test_what_would_be_no_time_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no time zone"):
        ManualClock(datetime(2026, 1, 1))
    with pytest.raises(InvalidInput, match="cannot be advanced by -1"):
        ManualClock(datetime(2026, 1, 1, tzinfo=UTC)).advance(timedelta(days=-1))
