"""The platform with other processes: demands that a cluster can never meet, and a home that two processes open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import mlplat
from mlplat._ray.niceness import in_background
from mlplat.errors import InvalidInput, Refused
from mlplat.model import mlp
from mlplat.testing.learnable import learnable
from mlplat.train import TrainSettings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[mlplat.Platform]:
    with mlplat.connect(tmp_path / "home") as platform:
        yield platform


@pytest.mark.parametrize("compute", ["cpu:16", "gpu:1"])
def test_a_demand_that_the_cluster_can_never_hold_is_refused_at_once(
    platform: mlplat.Platform, tmp_path: Path, compute: str
) -> None:
    data = learnable(tmp_path / "data", rows=300)
    with pytest.raises(Refused, match="can never run here") as caught:
        platform.train(mlp((4,)), data, compute=compute, settings=TrainSettings(epochs=1, holdout_s=3600))
    assert compute in str(caught.value)
    assert platform.metadata.names() == []


def test_a_demand_that_is_no_demand_is_answered_with_examples(platform: mlplat.Platform, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match='"gpu:8"'):
        platform.train(mlp((4,)), learnable(tmp_path / "data", rows=300), compute="8 gpus")


def test_another_process_opens_the_home_at_the_same_time_and_sees_it(platform: mlplat.Platform, tmp_path: Path) -> None:
    data = learnable(tmp_path / "data", rows=500)
    model = platform.train(mlp((4,)), data, settings=TrainSettings(epochs=1, holdout_s=3600))
    code = f"import mlplat; p = mlplat.connect({str(platform.home)!r}); print(p.metadata.versions('late')); p.close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert model.version.digest in done.stdout


def test_a_process_is_as_urgent_as_the_script_until_it_says_that_it_may_wait() -> None:
    def background() -> tuple[int, int]:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        in_background()
        in_background()
        return before, os.getpriority(os.PRIO_PROCESS, 0)

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert ray.get(ray.remote(num_cpus=0, max_calls=1)(background).remote()) == (mine, max(mine, 15))
