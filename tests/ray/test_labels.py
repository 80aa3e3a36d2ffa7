"""Labels of nodes: a run goes where they are, and is told where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mlplat
from mlplat.errors import Refused
from mlplat.model import mlp
from mlplat.testing.learnable import learnable
from tests.ray.drivers import told

pytestmark = pytest.mark.ray


def test_a_run_goes_to_the_node_with_its_label_and_waits_where_there_is_none(tmp_path: Path) -> None:
    (found,) = told("labelled_driver", tmp_path)
    assert found["auc"] > 0.6
    assert found["here"][0] == "starting 1 worker for 1 x (1 CPU, site=onprem)"
    assert found["elsewhere"] == [
        "1 x (1 CPU, site=cloud) asks for nodes with site=cloud, and there is none: nodes have site=onprem. It waits for one to "
        "join; Ctrl-C ends it.",
        "starting 1 worker for 1 x (1 CPU, site=cloud)",
    ]


def test_on_a_cluster_of_ones_own_a_label_that_the_node_lacks_is_refused(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = learnable(tmp_path / "data")
    with mlplat.connect(tmp_path / "home") as platform, monkeypatch.context() as here:
        here.setattr(platform.session, "owned", True)
        with pytest.raises(
            Refused, match=r"asks for nodes with site=cloud, and there is none: no node has a label 'site'\. "
        ):
            platform.train(mlp((16,)), data, compute={"CPU": 1, "labels": {"site": "cloud"}})
