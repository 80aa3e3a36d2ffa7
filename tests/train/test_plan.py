"""Steps: all workers do the same number, on rows of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.train.plan import plan_for, rate_at
from mlplat.train.settings import TrainSettings


@given(st.integers(1, 3_000), st.integers(1, 8), st.integers(2, 512), st.integers(1, 4))
def test_a_step_is_of_equal_parts_and_no_row_comes_twice(rows: int, workers: int, batch: int, accumulate: int) -> None:
    settings = TrainSettings(batch_size=batch, accumulate=accumulate)
    if rows < workers * accumulate:
        with pytest.raises(InvalidInput, match="too few"):
            plan_for(settings, rows, workers)
        return
    plan = plan_for(settings, rows, workers)
    assert plan.steps >= 1
    assert plan.rows_per_step % (workers * accumulate) == 0
    assert plan.steps * plan.rows_per_step <= rows < (plan.steps + 1) * plan.rows_per_step
    assert plan.rows_per_step <= max(batch, workers * accumulate)


def test_the_rate_falls_to_nothing_or_stays() -> None:
    cosine, constant = TrainSettings(), TrainSettings(schedule="constant")
    assert np.allclose([rate_at(cosine, done) for done in (0, 0.5, 1)], [1, 0.5, 0])
    assert rate_at(constant, 0.9) == 1.0
