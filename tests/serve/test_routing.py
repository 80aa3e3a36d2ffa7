from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.serve.routing import GOLD, Arm, Ranges, RoutingTable, assign, assign_all, position, with_share

UNITS = [f"unit {i}" for i in range(20_000)]


def table(challenger: float, *, salt: str = "late", epoch: int = 1) -> RoutingTable:
    arms = (Arm(name=GOLD, version=1, share=1.0 - challenger), Arm(name="challenger", version=2, share=challenger))
    return RoutingTable(epoch=epoch, salt=salt, arms=arms)


GOLD_ONLY = RoutingTable(epoch=1, salt="late", arms=(Arm(name=GOLD, version=1, share=1.0),))


def challenged(share: float) -> set[str]:
    return {unit for unit in UNITS if assign(table(share), unit).arm.name == "challenger"}


@pytest.mark.slow
def test_the_share_of_an_arm_is_the_share_of_the_units_that_it_gets() -> None:
    assert len(challenged(0.10)) / len(UNITS) == pytest.approx(0.10, abs=0.01)


@pytest.mark.slow
def test_a_small_share_is_inside_a_larger_one() -> None:
    assert challenged(0.01) < challenged(0.10) < challenged(0.50)


def test_salts_make_the_arms_of_two_names_independent() -> None:
    both = sum(position("a", unit) < 0.5 and position("b", unit) < 0.5 for unit in UNITS)
    assert both / len(UNITS) == pytest.approx(0.25, abs=0.02)


def test_another_process_gives_the_same_position() -> None:
    code = "from mlplat.serve.routing import position; print(position('late', 'JFK|N1'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(other.stdout) == position("late", "JFK|N1")


@given(st.lists(st.text()))
def test_one_arm_needs_no_hash_and_gives_what_the_hash_would(units: list[str]) -> None:
    assert assign_all(GOLD_ONLY, units) == [assign(GOLD_ONLY, unit) for unit in units]


@pytest.mark.slow
@given(st.lists(st.text()), st.floats(0, 1))
def test_assigning_many_is_assigning_each(units: list[str], share: float) -> None:
    assert assign_all(table(share), units) == [assign(table(share), unit) for unit in units]


@given(st.text(), st.text())
def test_a_position_is_within_zero_and_one(salt: str, unit: str) -> None:
    assert 0.0 <= position(salt, unit) < 1.0


@pytest.mark.parametrize(
    "arms",
    [
        (),
        (Arm(name="challenger", version=1, share=1.0),),
        (Arm(name=GOLD, version=1, share=0.5),),
        (Arm(name=GOLD, version=1, share=1.5), Arm(name="x", version=2, share=-0.5)),
    ],
)
def test_a_table_that_does_not_add_up_cannot_be_made(arms: tuple[Arm, ...]) -> None:
    with pytest.raises(InvalidInput):
        RoutingTable(epoch=1, salt="late", arms=arms)


changes = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 0.6)), max_size=12)


@pytest.mark.slow
@given(changes)
def test_an_arm_that_grows_takes_from_gold_alone_and_one_that_shrinks_gives_back_what_it_got_last(
    steps: list[tuple[str, float]],
) -> None:
    held: dict[str, Ranges] = {}
    units = UNITS[:500]
    for name, share in steps:
        before = dict(held)
        others = [ranges for other, ranges in held.items() if other != name]
        room = 1.0 - sum(high - low for ranges in others for low, high in ranges)
        if share > room + 1e-9:
            with pytest.raises(InvalidInput, match="of the units"):
                with_share(held.get(name, ()), share, others)
            continue
        held[name] = with_share(held.get(name, ()), share, others)
        assert sum(high - low for low, high in held[name]) == pytest.approx(share, abs=1e-9)
        had, has = ({u for u in units if within(one.get(name, ()), u)} for one in (before, held))
        assert had <= has or has <= had
        whole = sorted(r for ranges in held.values() for r in ranges)
        assert all(one[1] <= other[0] + 1e-12 for one, other in pairwise(whole))


def within(ranges: Ranges, unit: str) -> bool:
    return any(low <= position("late", unit) < high for low, high in ranges)


def test_a_table_goes_by_the_ranges_of_its_arms() -> None:
    b = Arm(name="b", version=2, share=0.2, ranges=((0.5, 0.6), (0.0, 0.1)))
    found = RoutingTable(epoch=1, salt="late", arms=(Arm(name=GOLD, version=1, share=0.8), b))
    for unit in UNITS[:500]:
        assert (assign(found, unit).arm is b) == within(b.ranges, unit)
