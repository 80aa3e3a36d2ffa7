"""The journey from CPU to GPU runs whole: one parameter changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examples.journeys import k12_cpu_to_gpu as k12


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_one_parameter_leads_from_this_process_to_workers_and_to_gpus(
    ray_cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = k12.main(tmp_path / "home")
    local, workers, gpu = found.values()
    assert local is not None
    assert workers is not None
    assert local.metrics["auc"] > 0.75
    assert workers.metrics["auc"] == pytest.approx(local.metrics["auc"], abs=0.02)
    if ray_cluster.total().get("GPU", 0):
        assert gpu is not None
        assert gpu.metrics["auc"] == pytest.approx(local.metrics["auc"], abs=0.02)
    else:
        assert gpu is None
        assert "gpu:1 can never run here: it asks for 1 GPU, and the whole cluster has 0" in capsys.readouterr().out
