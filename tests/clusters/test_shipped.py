"""The other files of clusters/: what Ray and mlplat take, and what the design asks of a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplat.cluster.check import checked
from mlplat.errors import InvalidInput

FOLDER = Path(__file__).parents[2] / "clusters"
LAUNCHED = ("onprem", "onprem-burst-aws", "aws")


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return found


@pytest.mark.parametrize("name", LAUNCHED)
def test_nothing_is_wrong_with_a_file_and_its_key_is_mounted_and_wanted(name: str) -> None:
    checked(FOLDER / f"{name}.yaml")
    config = loaded(name)
    mounted, _ = config["file_mounts"]
    starts = [
        command
        for kind in ("head", "worker")
        for command in config[f"{kind}_start_ray_commands"]
        if re.search(r"\bray start\b|mlplat cluster", command)
    ]
    assert len(starts) >= 2
    for command in starts:
        assert f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={mounted}" in command
    assert "--dashboard-host=127.0.0.1" in next(command for command in starts if "--head" in command)


@pytest.mark.parametrize("name", ["onprem-burst-aws", "aws"])
def test_what_is_bought_ends_without_its_head_and_is_not_stopped_but_terminated(name: str) -> None:
    config = loaded(name)
    (guard,) = [command for command in config["worker_start_ray_commands"] if "mlplat cluster guard" in command]
    assert '--end "sudo shutdown -h now"' in guard
    for site in config["provider"]["sites"].values():
        assert site["cache_stopped_nodes"] is False
    for kind in config["available_node_types"].values():
        for offer in kind["node_config"].get("offers", ()):
            assert offer["node"]["InstanceInitiatedShutdownBehavior"] == "terminate"


@pytest.mark.slow  # Ray takes seconds to import
@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_a_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(loaded(name)))


@pytest.mark.slow
def test_on_kubernetes_the_groups_are_own_nodes_and_bought_ones() -> None:
    from mlplat.cluster._ray.kuberay import cloud_of

    found = loaded("kuberay-burst")
    cloud = cloud_of(found)
    assert [(kind.name, kind.total, kind.most) for kind in cloud.own] == [("onprem-gpu", {"CPU": 32.0, "GPU": 4.0}, 2)]
    assert [(kind.name, kind.most) for kind in cloud.kinds] == [("cloud-gpu", 8)]
    assert (cloud.most, cloud.wait_s, cloud.stay_s, cloud.back) == (8, 600.0, 300.0, True)
    groups = {group["groupName"]: group for group in found["spec"]["workerGroupSpecs"]}
    assert groups["onprem-gpu"]["priority"] > groups["cloud-gpu"]["priority"]
    for group in (found["spec"]["headGroupSpec"], *groups.values()):
        (container,) = group["template"]["spec"]["containers"]
        assert container["securityContext"]["runAsNonRoot"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    del groups["cloud-gpu"]["labels"]
    with pytest.raises(InvalidInput, match="worker group cloud-gpu: labels must have site"):
        cloud_of(found)
    found["metadata"]["annotations"]["mlplat/wait-s"] = "soon"
    groups["cloud-gpu"]["labels"] = {"site": "cloud"}
    with pytest.raises(InvalidInput, match="annotation mlplat/wait-s: is 'soon'"):
        cloud_of(found)
    with pytest.raises(InvalidInput, match="must be RayCluster"):
        cloud_of({"kind": "Pod"})


def test_the_image_has_what_the_project_pins_and_is_not_root() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]}
    assert all((FOLDER.parent / name).exists() for name in copied)
    assert any("-c constraints.txt" in line for line in lines)
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
