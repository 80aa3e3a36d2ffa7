"""A run of one to two workers on a cluster where one core is free, and then two."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pytest

from tests.ray.drivers import told

pytestmark = pytest.mark.ray

STEPS = 24
"""Of an epoch."""


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.soak)])
def test_a_run_that_gets_a_second_worker_goes_on_and_sees_each_row_once_in_each_epoch(
    tmp_path: Path, parallel: str
) -> None:
    (found,) = told("resizing_driver", tmp_path, parallel)
    first, second = found["begun"]
    assert first == 0
    assert 40 - 8 <= second <= 40  # the newest checkpoint
    assert found["auc"] > 0.6
    alone = _rows(tmp_path / "1-0.rows")
    pair = [_rows(tmp_path / f"2-{rank}.rows") for rank in (0, 1)]
    assert sorted(alone) == list(range(40))
    assert sorted(pair[0]) == sorted(pair[1]) == list(range(second, 3 * STEPS))
    assert all(
        alone[step] == {*pair[0][step], *pair[1][step]} for step in range(second, 40)
    )  # done twice: the same rows
    steps = {**alone, **{step: pair[0][step] | pair[1][step] for step in pair[0]}}
    for _, epoch in groupby(sorted(steps), lambda step: step // STEPS):
        of_epoch = [steps[step] for step in epoch]
        assert all(len(rows) == 128 for rows in of_epoch)
        assert len(set().union(*of_epoch)) == STEPS * 128


def _rows(path: Path) -> dict[int, set[str]]:
    """Of each step of one worker."""
    return {step: set(rows) for step, rows in map(json.loads, path.read_text().splitlines())}
