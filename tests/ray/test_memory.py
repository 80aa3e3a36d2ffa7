"""A node that runs low on memory: Ray kills a worker of the run, which goes on or says why it does not."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from ray.exceptions import OutOfMemoryError
from ray.train import FailureConfig
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import ControllerError

from mlplat.train._ray.failures import killed_for_memory
from mlplat.train._ray.policies import FailurePolicy
from tests.ray.drivers import told
from tests.ray.eating_driver import ROOM
from tests.train.support import settings

pytestmark = pytest.mark.ray


def test_a_worker_that_is_killed_for_its_memory_is_replaced_and_then_the_error_says_so(tmp_path: Path) -> None:
    if psutil.virtual_memory().available < 2 * ROOM:
        pytest.skip(f"a worker eats {ROOM // 2**30} GiB here, and must not take what others need")
    lenient, strict = told("eating_driver", tmp_path)
    assert "error" not in lenient, lenient
    assert (len(lenient["begun"]), lenient["same"]) == (2, True)
    assert 8 <= lenient["begun"][1] <= 16
    assert strict["error"] == "Unavailable"
    assert "Ray killed them because the node " in strict["message"]
    assert "GB used / " in strict["message"]
    assert "a batch_size below 128; accumulate=2" in strict["message"]
    assert "newest checkpoint" in strict["message"]
    assert strict["cause"] == "None"
    assert (len(strict["begun"]), strict["same"]) == (2, True)  # the same call, in process


def test_workers_killed_for_memory_while_they_start_count_as_lost() -> None:
    """Ray Train takes it for an error of its own, which it would not try again."""
    policy = FailurePolicy(FailureConfig(max_failures=1))
    decisions = [policy.make_decision(ControllerError(OutOfMemoryError("killed"))) for _ in range(2)]
    assert decisions == [FailureDecision.RETRY, FailureDecision.RAISE]
    assert FailurePolicy(FailureConfig()).make_decision(ControllerError(ValueError())) == FailureDecision.RAISE


def test_a_text_of_another_form_is_still_told() -> None:
    said = str(killed_for_memory(OutOfMemoryError("a later version says it otherwise"), settings()))
    assert said.startswith("workers were lost: Ray killed them because their node ran low on memory. What takes less: ")
