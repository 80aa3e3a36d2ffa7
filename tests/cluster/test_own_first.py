"""What asks Ray beside the queue of jobs is on own machines first: by Ray's own scheduler, for machines that it would start."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import NodeState, NodeStatus
from ray.core.generated.common_pb2 import LabelSelectorOperator
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind

from mlplat.jobs.cloud import own_before_bought
from mlplat.testing.lab import config

pytestmark = pytest.mark.slow
OPERATORS = {True: LabelSelectorOperator.LABEL_OPERATOR_NOT_IN, False: LabelSelectorOperator.LABEL_OPERATOR_IN}


def selectors(options: dict[str, Any]) -> list[list[tuple[str, Any, list[str]]]]:
    """As Ray's processes hand them on."""
    said = [options["label_selector"], *(one["label_selector"] for one in options.get("fallback_strategy", ()))]
    return [
        [(key, OPERATORS[value.startswith("!")], [value.removeprefix("!")]) for key, value in one.items()]
        for one in said
    ]


def instance(number: int, kind: str, free: float) -> AutoscalerInstance:
    running = NodeState(
        node_id=bytes([number]) * 28,
        instance_id=f"i{number}",
        ray_node_type_name=kind,
        status=NodeStatus.RUNNING,
        total_resources={"CPU": 8, "GPU": 4},
        available_resources={"CPU": 8, "GPU": free},
        labels={"site": "onprem"} if kind == "onprem.gpu" else {},
    )
    managed = Instance(
        instance_id=f"m{number}", instance_type=kind, status=Instance.RAY_RUNNING, node_kind=NodeKind.WORKER
    )
    return AutoscalerInstance(ray_node=running, cloud_instance_id=f"i{number}", im_instance=managed)


def launches(options: dict[str, Any], free: list[float], *, most: int) -> dict[str, int]:
    """What Ray would start for three demands of a GPU, beside own machines with so many free; bought ones fit them better."""
    given = config()
    own, bought = (given["available_node_types"][name] for name in ("onprem.gpu", "cloud.gpu"))
    own.update(min_workers=0, max_workers=most, priority=0)
    bought.update(resources={"CPU": 1, "GPU": 1}, priority=0)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=AutoscalingConfig(given, skip_content_hash=True).get_node_type_configs(),
        max_num_nodes=12,
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make({"CPU": 1, "GPU": 1}, label_selectors=selectors(options)) for _ in range(3)]
        ),
        current_instances=[instance(number, "onprem.gpu", gpus) for number, gpus in enumerate(free)],
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert not reply.infeasible_resource_requests
    return dict(Counter({launch.instance_type: launch.count for launch in reply.to_launch}))


def test_nothing_is_bought_while_own_machines_have_room_or_could_be_started() -> None:
    assert launches(own_before_bought({}), [3, 0], most=2) == {}
    assert launches(own_before_bought({}), [0], most=2) == {"onprem.gpu": 1}


def test_without_the_words_ray_buys_before_it_starts_an_own_machine() -> None:
    assert launches({"label_selector": {}}, [0], most=2) == {"cloud.gpu": 3}


def test_what_finds_no_room_on_own_machines_is_bought() -> None:
    assert launches(own_before_bought({}), [1, 0], most=2) == {"cloud.gpu": 2}


def test_who_names_a_site_is_nowhere_else() -> None:
    assert own_before_bought({"site": "cloud", "zone": "a"}) == {"label_selector": {"site": "cloud", "zone": "a"}}
    assert launches(own_before_bought({"site": "cloud"}), [3, 3], most=2) == {"cloud.gpu": 3}
