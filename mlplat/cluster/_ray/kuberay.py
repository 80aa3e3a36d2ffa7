"""What a cluster on Kubernetes may grow by: KubeRay makes the nodes there, and mlplat's provider has no part in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from mlplat.cluster.spec import ONPREM
from mlplat.errors import InvalidInput
from mlplat.jobs.cloud import BOUGHT, SITE, Cloud, Kind

WAIT, STAY, BACK = "mlplat/wait-s", "mlplat/stay-s", "mlplat/back"


def cloud_of(resource: Mapping[str, Any]) -> Cloud:
    """Of a RayCluster, as Ray's autoscaler (2.60) reads it. Groups have the label `site`; what bursting waits for is in its
    annotations."""
    if resource.get("kind") != "RayCluster":
        raise InvalidInput(f"kind: is {resource.get('kind')!r}, and must be RayCluster")
    try:
        config = _derive_autoscaling_config_from_ray_cr(dict(resource))
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"Ray's autoscaler cannot read it: {type(error).__name__}: {error}") from None
    kinds: dict[str, list[Kind]] = {ONPREM: [], BOUGHT: []}
    for name, given in config["available_node_types"].items():
        if name == config["head_node_type"]:
            continue
        site = given["labels"].get(SITE)
        if site not in kinds:
            raise InvalidInput(
                f"worker group {name}: labels must have {SITE}: {ONPREM} or {SITE}: {BOUGHT}; has {site!r}"
            )
        # A pod's nodes have less memory than its limit, and so would never do for a request of all of it.
        total = {of: float(amount) for of, amount in given["resources"].items() if of != "memory" and amount}
        kinds[site].append(Kind(name=name, total=total, labels=given["labels"], most=given["max_workers"]))
    said = resource.get("metadata", {}).get("annotations", {})
    cloud = Cloud(
        kinds=tuple(kinds[BOUGHT]),
        own=tuple(kinds[ONPREM]),
        most=sum(kind.most for kind in kinds[BOUGHT]),
        back=said.get(BACK, "true") != "false",
    )
    return replace(cloud, wait_s=_number(said, WAIT, cloud.wait_s), stay_s=_number(said, STAY, cloud.stay_s))


def _number(said: Mapping[str, str], name: str, otherwise: float) -> float:
    try:
        found = float(said.get(name, otherwise))
    except ValueError:
        found = -1.0
    if not found >= 0:
        raise InvalidInput(f"annotation {name}: is {said[name]!r}, and must be a number from 0")
    return found
