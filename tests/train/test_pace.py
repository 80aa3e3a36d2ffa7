"""When a run looks up, and when a checkpoint is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.train.pace import FIRST_S, LOOK_S, Pace
from mlplat.train.settings import Recovery


def test_it_looks_a_few_times_a_second() -> None:
    pace = Pace(recovery=Recovery())
    assert pace.look_after(LOOK_S / 50) == 50
    assert pace.look_after(10.0) == 1
    assert pace.look_after(0.0) == 1_000
    assert Pace(recovery=Recovery(steps=80)).look_after(LOOK_S / 50) == 10


def test_checkpoints_cost_no_more_than_their_share() -> None:
    pace = Pace(recovery=Recovery(share=0.02))
    assert not pace.due(steps=1_000, seconds=FIRST_S - 0.1, cost_s=None, ahead=1)
    assert pace.due(steps=1_000, seconds=FIRST_S, cost_s=None, ahead=1)
    assert not pace.due(steps=1, seconds=49.0, cost_s=1.0, ahead=1)
    assert pace.due(steps=1, seconds=50.0, cost_s=1.0, ahead=1)
    assert pace.due_at_end(seconds=0.0, cost_s=None)
    assert not pace.due_at_end(seconds=0.4, cost_s=0.01)
    assert pace.due_at_end(seconds=0.5, cost_s=0.01)


@pytest.mark.slow
@given(st.integers(1, 300), st.floats(1e-4, 1.0), st.integers(0, 40))
def test_a_crash_at_any_step_repeats_no_more_than_it_may(limit: int, step_s: float, write_steps: int) -> None:
    """A run as `Session` drives it, whose checkpoints take `write_steps` to be durable unless it waits for them."""
    pace, committed, begun, durable_at = Pace(recovery=Recovery(steps=limit)), 0, 0, 0
    done, next_look = 0, 1
    while done < 4 * limit + 50:
        if done >= next_look:
            ahead = pace.look_after(step_s)
            if pace.must_wait(unsaved=done - committed, ahead=ahead):
                committed = begun
            save = pace.must_wait(unsaved=done - committed, ahead=ahead)
            if save or pace.due(steps=done - begun, seconds=0.0, cost_s=None, ahead=ahead):
                committed, begun, durable_at = begun, done, done + write_steps  # a new one waits for the last one
                if pace.must_wait(unsaved=done - committed, ahead=ahead):
                    committed = begun
            next_look = done + ahead
        done += 1
        if done >= durable_at:
            committed = begun
        assert done - committed <= limit
