"""The dispatcher, driven by any order of answers and failures, against what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.serve.dispatch import Ask, Count, Dispatch, Fail, Give, Mirror, Singles
from mlplat.serve.routing import GOLD, Arm, RoutingTable, assign

TABLES = st.sampled_from(
    [
        RoutingTable(
            epoch=1, salt="late", arms=(Arm(name=GOLD, version=1, share=1 - sum(shares)), *arms), mirrors=mirrors
        )
        for shares, arms in (
            ((), ()),
            ((0.5,), (Arm(name="b", version=2, share=0.5),)),
            ((0.3, 0.3), (Arm(name="b", version=2, share=0.3), Arm(name="c", version=3, share=0.3))),
            ((1.0,), (Arm(name="b", version=2, share=1.0),)),
        )
        for mirrors in ((), (Arm(name="s", version=9, share=1.0), Arm(name="t", version=8, share=1.0)))
    ]
)


@pytest.mark.slow
@given(TABLES, st.lists(st.text(max_size=3), min_size=1, max_size=12), st.data())
def test_every_row_is_answered_once_by_its_arm_or_by_gold_and_gold_by_nobody_else(
    table: RoutingTable, units: list[str], data: st.DataObject
) -> None:
    dispatch = Dispatch(table, units)
    instructions = dispatch.begin()
    mirrors = [i for i in instructions if isinstance(i, Mirror)]
    assert [m.arm for m in mirrors] == list(table.mirrors)
    assert all(m.rows == tuple(range(len(units))) for m in mirrors)
    waiting = [i for i in instructions if isinstance(i, Ask)]
    assert len(waiting) + len(mirrors) == len(instructions)

    answered: dict[int, int] = {}
    counted: dict[str, int] = {}
    failed_rows: dict[str, int] = {}
    ends: list[Give | Fail] = []
    gold_failed = False
    while waiting:
        ask = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        assert all(assigned == assign(table, units[row]) for row, assigned in zip(ask.rows, ask.arms, strict=True))
        assert ask.version == (table.arms[0].version if ask.is_gold else ask.arms[0].arm.version)
        if data.draw(st.booleans()):
            for row in ask.rows:
                assert row not in answered
                answered[row] = ask.version
            said = dispatch.answered(ask)
        else:
            failure = data.draw(st.sampled_from(["failed", "late"]))
            gold_failed |= ask.is_gold
            if not ask.is_gold:
                name = ask.arms[0].arm.name
                failed_rows[name] = failed_rows.get(name, 0) + len(ask.rows)
            said = dispatch.failed(ask, failure)
        for instruction in said:
            if isinstance(instruction, Ask):
                assert instruction.is_gold
                assert instruction.instead is not None
                waiting.append(instruction)
            elif isinstance(instruction, Count):
                counted[instruction.arm] = counted.get(instruction.arm, 0) + instruction.rows
            else:
                assert isinstance(instruction, Give | Fail)
                ends.append(instruction)
    assert counted == failed_rows
    assert len(ends) == 1
    assert isinstance(ends[0], Fail) == gold_failed
    if not gold_failed:
        assert sorted(answered) == list(range(len(units)))
        for row, version in answered.items():
            arm = assign(table, units[row]).arm
            assert version == arm.version or (version == table.arms[0].version and arm.name in counted)


@given(TABLES, st.text(max_size=3))
def test_what_a_request_of_one_row_asks_for_is_what_it_begins_with(table: RoutingTable, unit: str) -> None:
    asked = Dispatch(table, [unit]).begin()
    only = Singles(table).of(unit)
    assert asked == [only] if only is not None else any(isinstance(one, Mirror) for one in asked)


def test_an_ask_is_settled_once() -> None:
    dispatch = Dispatch(RoutingTable(epoch=1, salt="x", arms=(Arm(name=GOLD, version=1, share=1.0),)), ["u"])
    (ask,) = dispatch.begin()
    assert isinstance(ask, Ask)
    assert dispatch.answered(ask) == [Give()]
    with pytest.raises(KeyError):
        dispatch.failed(ask, "late")
