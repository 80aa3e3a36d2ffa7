"""All sites keep one contract: hosts, a made-up cloud, and providers of Ray's as `Child` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mlplat.clock import SystemClock
from mlplat.cluster.hosts import Hosts
from mlplat.cluster.site import Site
from mlplat.testing.cloud import MadeUpCloud
from mlplat.testing.site_contract import SiteContract


class TestHosts(SiteContract):
    node: Mapping[str, Any] = MappingProxyType({"hosts": ["h1", "h2", "h3"]})
    most = 3

    @pytest.fixture
    def site(self) -> Site:
        return Hosts({}, lambda host: True, SystemClock())


class TestMadeUpCloud(SiteContract):
    node: Mapping[str, Any] = MappingProxyType({"zone": "a"})
    most = 4

    @pytest.fixture
    def site(self) -> Site:
        return MadeUpCloud(capacity={"a": 4})


@pytest.mark.slow
class TestFoldersAsMachines(SiteContract):
    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        from mlplat.cluster._ray.child import Child
        from mlplat.cluster.rehearsal import Machines

        return Child(Machines({"folder": str(tmp_path)}, "lab"))


@pytest.mark.slow
class TestEc2(SiteContract):
    """As Ray's provider calls it, and moto has it; there a call makes one machine, however many are asked for."""

    @pytest.fixture
    def site(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        import boto3
        from moto import mock_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        from mlplat.cluster._ray.child import Child

        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        region = "eu-central-1"
        with mock_aws():
            ec2 = boto3.client("ec2", region_name=region)
            image, subnet = ec2.describe_images()["Images"][0], ec2.describe_subnets()["Subnets"][0]
            self.node = {"ImageId": image["ImageId"], "InstanceType": "g5.xlarge", "SubnetIds": [subnet["SubnetId"]]}
            yield Child(AWSNodeProvider({"region": region, "cache_stopped_nodes": False}, "lab"))
