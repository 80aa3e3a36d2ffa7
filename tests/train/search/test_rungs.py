"""Who goes on, against a slow reading of the rule."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.train.search.rungs import Rungs

VALUES = st.floats(-5, 5) | st.just(math.nan)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 9), VALUES), max_size=30),
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(1, 3),
    st.sampled_from(["min", "max"]),
)
def test_at_a_rung_the_best_part_of_those_that_came_goes_on(
    told: list[tuple[int, float]], first: int, factor: int, brackets: int, best: Any
) -> None:
    rungs = Rungs(first=first, factor=factor, brackets=brackets)
    steps: dict[int, dict[int, float]] = {}
    gone: set[int] = set()
    for number, value in told:
        if number in gone:
            continue
        own = steps.setdefault(number, {})
        step = len(own) + 1
        own[step] = value
        found = rungs.goes_on(number, step, own, [s for n, s in steps.items() if n != number], best=best)
        at = [first * factor ** (number % brackets + k) for k in range(9)]
        if step not in at:
            expected = True
        elif math.isnan(value):
            expected = False
        else:
            came = [s[step] for s in steps.values() if step in s and not math.isnan(s[step])]
            better = sum(1 for one in came if (one < value if best == "min" else one > value))
            expected = better < max(1, len(came) // factor)
        assert found == expected
        if not found:
            gone.add(number)


def test_the_first_to_come_goes_on() -> None:
    assert Rungs().goes_on(0, 1, {1: 9.0}, [], best="min")


@pytest.mark.parametrize("wrong", [{"first": 0}, {"factor": 1}, {"brackets": 0}, {"first": 1.5}])
def test_what_makes_no_rungs_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="must be a whole number from"):
        Rungs(**wrong)
