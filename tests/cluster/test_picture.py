"""What is drawn of a simulated cluster is what was held."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplat.cluster.budget import Bill
from mlplat.cluster.picture import _held, _steps, draw
from mlplat.cluster.world import Outcome, Ran
from mlplat.errors import InvalidInput
from mlplat.jobs.job import Job

HOUR = 3_600_000_000


def outcome() -> Outcome:
    job = Job(id="j", tenant="t", pool="default", submitted_us=0, each=(("GPU", 2.0),), count=2)
    ran = [
        Ran(job=job, bought=bought, began_us=at * HOUR, ended_us=(at + 2) * HOUR)
        for bought, at in ((False, 1), (True, 2))
    ]
    bill = Bill(price=3.0, gpus=4.0, began_us=2 * HOUR, ended_us=None)
    return Outcome(ran=[*ran, ran[0]], bills=[bill], until_us=5 * HOUR)


def test_amounts_are_those_between_beginnings_and_ends() -> None:
    hours, gpus = _steps(_held(outcome(), bought=False))
    assert (hours.tolist(), gpus.tolist()) == ([0, 1, 3], [0, 8, 0])  # two of four GPUs each
    hours, gpus = _steps(_held(outcome(), bought=True))
    assert (hours.tolist(), gpus.tolist()) == ([0, 2, 4], [0, 4, 0])
    assert [part.tolist() for part in _steps([])] == [[0], [0]]


@pytest.mark.slow
def test_there_is_a_strip_for_each_rule_and_the_same_work_is_the_same_file(tmp_path: Path) -> None:
    one = draw({"waits": outcome(), "at once": outcome()}, tmp_path / "one.svg")
    assert {"waits: cost 9", "at once: cost 9"} <= set(one.read_text().replace("<", ">").split(">"))
    assert draw({"waits": outcome(), "at once": outcome()}, tmp_path / "two.svg").read_text() == one.read_text()
    with pytest.raises(InvalidInput, match="doc"):
        draw({"waits": outcome()}, tmp_path / "one.doc")
