"""The provider through the adapter by which Ray's autoscaler (2.60) calls it, with EC2 as moto has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from mlplat.testing.lab import config

pytestmark = pytest.mark.slow

CLUSTERS = Path(__file__).parents[2] / "clusters"
REGION = "eu-central-1"


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws(
        config={"iam": {"load_aws_managed_policies": True}}
    ):  # a call makes one machine, however many are asked for
        yield boto3.client("ec2", region_name=REGION)


@pytest.fixture
def asked(ec2: Any, tmp_path: Path) -> dict[str, Any]:
    """A cluster whose machines EC2 has: two zones with spot, then on demand."""
    zones = ec2.describe_subnets()["Subnets"][:2]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    given = config(str(tmp_path / "machines.db"), nodes=2)
    given["provider"]["sites"] = {"cloud": {"type": "aws", "region": REGION, "cache_stopped_nodes": False}}
    given["provider"]["probe_port"] = 1
    for offer, zone in zip(
        given["available_node_types"]["cloud.gpu"]["node_config"]["offers"], [*zones, zones[0]], strict=True
    ):
        offer["node"] = {"ImageId": image, "InstanceType": "g5.xlarge", "SubnetIds": [zone["SubnetId"]]}
        if offer.get("spot"):
            offer["node"]["InstanceMarketOptions"] = {"MarketType": "spot"}
    return given


@pytest.fixture
def adapter(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, IConfigReader
    from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

    from mlplat.cluster import Provider

    class Reader(IConfigReader):
        def get_cached_autoscaling_config(self) -> Any:
            return AutoscalingConfig(asked, skip_content_hash=True)

        def refresh_cached_autoscaling_config(self) -> None: ...

    return lambda: NodeProviderAdapter(Provider(asked["provider"], asked["cluster_name"]), Reader())


def launched(adapter: Any, shape: dict[str, int], request: str) -> None:
    adapter.launch(shape, request)
    adapter._main_executor.shutdown(wait=True)
    adapter._node_launcher_executors.shutdown(wait=True)


def running(ec2: Any) -> dict[str, dict[str, str]]:
    found = ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}])
    return {
        one["InstanceId"]: {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        for reservation in found["Reservations"]
        for one in reservation["Instances"]
    }


def test_ray_finds_what_it_asked_for_also_after_a_restart_and_gives_it_back(
    ec2: Any, adapter: Callable[[], Any]
) -> None:
    first = adapter()
    launched(first, {"cloud.gpu": 2}, "r1")
    assert first.poll_errors() == []
    for ray in (first, adapter()):
        there = ray.get_non_terminated()
        assert there.keys() == running(ec2).keys()
        assert {(one.node_type, one.request_id, one.is_running) for one in there.values()} == {
            ("cloud.gpu", "r1", True)
        }
    again = adapter()
    again.get_non_terminated()
    again._do_terminate(list(running(ec2)), "r2")
    assert again.poll_errors() == []
    assert not running(ec2)
    assert not again.get_non_terminated()


def test_the_rights_of_the_head_are_what_is_asked_of_ec2_and_no_more(
    ec2: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.client import BaseClient

    from mlplat.cluster import Provider

    call, made = BaseClient._make_api_call, set[str]()

    def recorded(self: Any, name: str, given: Any) -> Any:
        made.add(f"{self.meta.service_model.service_id.lower()}:{name}")
        return call(self, name, given)

    monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
    provider = Provider(asked["provider"], asked["cluster_name"])
    kind = asked["available_node_types"]["cloud.gpu"]
    tags = {"ray-user-node-type": "cloud.gpu", "ray-node-kind": "worker"}
    (name,) = provider.create_node_with_resources_and_labels(kind["node_config"], tags, 1, kind["resources"], {})
    assert provider.non_terminated_nodes({}) == [name]
    assert provider.is_running(name)
    provider.set_node_tags(name, {"ray-node-status": "up-to-date"})
    assert provider.internal_ip(name)
    provider.external_ip(name)
    provider.terminate_nodes([name])
    assert provider.non_terminated_nodes({}) == []
    policy = json.loads((CLUSTERS / "aws-head-policy.json").read_text())
    allowed = [(action, one) for one in policy["Statement"] for action in several(one["Action"])]
    assert made == {action for action, _ in allowed}
    changes = [
        one for action, one in allowed if action != "ec2:DescribeInstances" and "instance/*" in str(one["Resource"])
    ]
    assert len(changes) == 4
    named = yaml.safe_load((CLUSTERS / "onprem-burst-aws.yaml").read_text())["cluster_name"]
    assert all(named in tag_of(one) for one in changes)


def several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def tag_of(statement: dict[str, Any]) -> list[str]:
    """What it wants the tag of the cluster to be: of the machine, or of the request that makes it."""
    wanted = statement["Condition"]["StringEquals"]
    return [value for key, value in wanted.items() if key.endswith("/ray-cluster-name")]


def test_where_a_zone_has_none_the_same_call_gets_them_elsewhere(
    ec2: Any, adapter: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError
    from ray.autoscaler._private.aws import node_provider as aws

    create = aws.AWSNodeProvider._create_node
    asked: list[str] = []

    def without_spot(self: Any, node: Any, tags: Any, count: int) -> Any:
        asked.append(tags["mlplat-offer"])
        if "InstanceMarketOptions" in node:
            code = {"Error": {"Code": "InsufficientInstanceCapacity", "Message": "there is no capacity now"}}
            raise aws.NodeLaunchException(code["Error"]["Code"], code["Error"]["Message"], (ClientError, None, None))
        return create(self, node, tags, count)

    monkeypatch.setattr(aws.AWSNodeProvider, "_create_node", without_spot)
    ray = adapter()
    launched(ray, {"cloud.gpu": 1}, "r1")
    assert asked == ["spot a", "spot b", "on demand"]
    assert ray.poll_errors() == []
    assert [tags["mlplat-offer"] for tags in running(ec2).values()] == ["on demand"]


def test_what_is_not_launched_is_an_error_that_says_why(ec2: Any, adapter: Callable[[], Any]) -> None:
    ray = adapter()
    launched(ray, {"cloud.gpu": 5, "onprem.gpu": 2}, "r1")
    assert len(running(ec2)) == 2
    errors = {error.node_type: str(error.__cause__) for error in ray.poll_errors()}
    assert "3 of 5 x cloud.gpu: " in errors["cloud.gpu"]
    assert "2 bought machines run, and the budget has 2" in errors["cloud.gpu"]
    assert "h1, h2 do not answer" in errors["onprem.gpu"]


def test_a_wrong_offer_is_no_reason_to_wait(ec2: Any, adapter: Callable[[], Any], asked: dict[str, Any]) -> None:
    for offer in asked["available_node_types"]["cloud.gpu"]["node_config"]["offers"][:2]:
        offer["node"]["SubnetIds"] = ["subnet-0"]
    ray = adapter()
    launched(ray, {"cloud.gpu": 1}, "r1")
    assert ray.poll_errors() == []
    assert [tags["mlplat-offer"] for tags in running(ec2).values()] == ["on demand"]


def test_rays_own_schema_takes_the_yaml_and_ray_up_fills_in_what_ec2_needs(
    ec2: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    from mlplat.cluster import Provider

    given = prepare_config(asked)
    validate_config(given)
    for offer in given["available_node_types"]["cloud.gpu"]["node_config"]["offers"]:
        del offer["node"]["SubnetIds"]
    filled = Provider.bootstrap_config(given)
    validate_config(filled)
    for offer in filled["available_node_types"]["cloud.gpu"]["node_config"]["offers"]:
        assert offer["node"]["SubnetIds"]
        assert offer["node"]["SecurityGroupIds"]
    assert filled["provider"]["head"] == {"host": "h0", "type": "head"}
