"""The loop that asks the gold promoter: it tells things once, goes on after trouble, and stops when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from mlplat.decision import Act, Decision, Hold
from mlplat.errors import Conflict, InvalidInput, NotFound, Unavailable
from mlplat.serve.advancing import keep_asking, same
from mlplat.testing.clock import ManualClock

HOLD, SHARE = Hold(reason="few"), Act(reason="fine", evidence={"action": "share", "next_share": 0.5})
Given = Sequence[tuple[str, Decision]] | Exception


def run(given: Sequence[Given], *, takes_s: float = 0.0) -> tuple[list[str], list[float]]:
    """What it says, and how long it waits, where each step gives the next of these."""
    clock, left, said, waited = ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), list(given), [], []

    def step() -> Iterable[tuple[str, Decision]]:
        found = left.pop(0)
        clock.advance(timedelta(seconds=takes_s))
        if isinstance(found, Exception):
            raise found
        yield from found

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return not left

    keep_asking(step, every_s=60.0, clock=clock, wait=wait, say=said.append)
    return said, waited


def test_a_decision_is_told_once() -> None:
    said, _ = run([[("b", HOLD), ("c", HOLD)], [("b", HOLD)], [("b", SHARE)], [("b", HOLD)], []])
    assert said == ["b: hold: few", "c: hold: few", "b: share: fine", "b: hold: few"]


@pytest.mark.parametrize("error", [Unavailable, Conflict, NotFound, OSError])
def test_trouble_is_told_once_and_it_goes_on(error: Callable[[str], Exception]) -> None:
    said, waited = run([error("away"), error("away"), error("lost"), [("b", SHARE)], [("b", SHARE)]])
    tried = "it is tried again every 60 s"
    assert said == [f"not decided: away; {tried}", f"not decided: lost; {tried}", "b: share: fine", "it goes on"]
    assert len(waited) == 5


def test_what_is_no_passing_trouble_ends_it() -> None:
    with pytest.raises(InvalidInput, match="cannot be compared"):
        run([InvalidInput("cannot be compared"), []])


def test_what_a_step_takes_is_not_waited_for_again() -> None:
    assert run([[], []], takes_s=20.0)[1] == [40.0, 40.0]
    assert run([[], []], takes_s=80.0)[1] == [0.0, 0.0]


def test_decisions_are_the_same_whenever_they_were_made() -> None:
    one = Act(reason="fine", evidence={"rows": 5, "loss": float("nan"), "decided_at": "noon"})
    kept = Act(reason="fine", evidence={"loss": "nan", "rows": 5, "decided_at": "midnight"})
    assert same(one, kept)
    assert not same(one, Hold(reason="fine", evidence=one.evidence))
    assert not same(one, Act(reason="fine", evidence={"rows": 6, "loss": float("nan")}))
    assert not same(one, Act(reason="good", evidence=one.evidence))
