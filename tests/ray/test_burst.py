"""Jobs that wait for own machines go to bought ones, and come back: with the queue's real controller, and a second raylet in
place of the machine that Ray's autoscaler would make."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.experimental.internal_kv import _internal_kv_del

import mlplat
from mlplat.cluster import own_first
from mlplat.cluster.guard import drained
from mlplat.jobs import Rules
from mlplat.jobs._ray.cloud import publish
from mlplat.jobs.cloud import Cloud, Kind
from mlplat.jobs.demand import Demand
from tests.ray.test_jobs import BOTH, PATIENCE_S, SLOT, STEPS, controller, python, until

pytestmark = [pytest.mark.ray, pytest.mark.alone]
OWN = Kind(name="onprem", total={"FPGA": 2.0}, labels={}, most=1)
BOUGHT = Kind(name="cloud", total={"FPGA": 2.0}, labels={"site": "cloud"}, most=3)


@pytest.fixture(scope="module", autouse=True)
def gone(ray_cluster: Any) -> Iterator[None]:
    """Tests that follow are not given a machine that was killed, which Ray takes a while to see."""
    yield
    until(lambda: all(node["Labels"].get("site") != "cloud" for node in ray.nodes() if node["Alive"]))


@pytest.fixture
def platform(ray_cluster: Any, tmp_path: Path) -> Iterator[mlplat.Platform]:
    """Of a cluster that may buy machines."""
    publish(Cloud(kinds=(BOUGHT,), own=(OWN,), most=3, wait_s=1.0, stay_s=0.0))
    try:
        with mlplat.connect(tmp_path / "home") as platform:
            platform.jobs.set_rules(Rules(grace_s=10.0))
            yield platform
            for row in platform.jobs.list(ended=0).to_dicts():
                platform.jobs.cancel(row["id"])
            until(lambda: platform.jobs.list(ended=0).height == 0)
            until(lambda: not asked())
    finally:
        _internal_kv_del(b"cloud", namespace="mlplat_cluster")


def asked() -> list[tuple[dict[str, float], int]]:
    """What Ray's autoscaler would read."""
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    return [
        (dict(one.request.resources_bundle), one.count)
        for constraint in get_cluster_resource_state(client).cluster_resource_constraints
        for one in constraint.resource_requests
    ]


@contextmanager
def machine(log: Path) -> Iterator[None]:
    """A raylet with the label of bought machines, from now on until it is killed."""
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=0", "--disable-usage-stats"),
        *(f"--address={ray.get_runtime_context().gcs_address}", "--labels=site=cloud", '--resources={"FPGA": 2}'),
    ]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=dict(os.environ)) as process,
    ):
        try:
            yield
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def site(platform: mlplat.Platform, job_id: str) -> Callable[[], str]:
    """Where it runs now."""

    def found() -> str:
        record = platform.jobs.get(job_id)
        nodes = {node["NodeID"]: node["Labels"].get("site", "own") for node in ray.nodes()}
        return nodes.get(record["nodes"][0], "?") if record["state"] == "running" else ""

    return found


def test_a_job_goes_to_the_cloud_when_own_machines_are_full_and_comes_back_without_a_step_lost(
    platform: mlplat.Platform, tmp_path: Path
) -> None:
    full = platform.jobs.submit(python(STEPS, tmp_path / "full", 100_000), compute=BOTH, preemptible=False)
    until(lambda: (tmp_path / "full").exists())
    steps = tmp_path / "steps"
    waits = platform.jobs.submit(python(STEPS, steps, 400), compute=SLOT)
    until(lambda: asked() == [({"FPGA": 2.0}, 1)])
    until(lambda: "the cloud is asked for 1 x cloud" in platform.jobs.get(waits)["reason"])
    with machine(tmp_path / "raylet.log"):
        until(lambda: site(platform, waits)() == "cloud")
        until(lambda: not asked())  # what is busy needs no asking
        until(lambda: steps.exists() and len(steps.read_text()) > 20)
        platform.jobs.cancel(full)
        until(lambda: site(platform, waits)() == "own")
        done = platform.jobs.wait(waits, timeout_s=PATIENCE_S)
    assert (done["state"], done["leases"]) == ("done", 2)
    assert steps.read_text() == "." * 400


def test_what_only_the_cloud_could_hold_is_taken_and_what_not_even_that_is_refused(platform: mlplat.Platform) -> None:
    wide = platform.jobs.submit(["true"], compute={"FPGA": 2, "workers": 3})
    until(lambda: asked() == [({"FPGA": 2.0}, 3)])
    controller().kill()
    platform.jobs.cancel(wide)
    until(lambda: not asked())  # what a controller that died asked for is not bought for ever
    with pytest.raises(mlplat.errors.Refused, match="the whole cluster has 8"):
        platform.jobs.submit(["true"], compute={"FPGA": 2, "workers": 5})


def test_a_machine_that_is_taken_away_with_notice_or_killed_costs_no_step_that_was_written(
    platform: mlplat.Platform, tmp_path: Path
) -> None:
    platform.jobs.submit(python(STEPS, tmp_path / "full", 100_000), compute=BOTH, preemptible=False)
    until(lambda: (tmp_path / "full").exists())
    steps = tmp_path / "steps"
    job_id = platform.jobs.submit(python(STEPS, steps, 1_500), compute=SLOT)
    with machine(tmp_path / "one.log"):
        until(lambda: steps.exists() and len(steps.read_text()) > 10)
        (node,) = platform.jobs.get(job_id)["nodes"]
        host, _, port = ray.get_runtime_context().gcs_address.partition(":")
        assert drained(host, int(port), 60, node=node)
        until(lambda: platform.jobs.get(job_id)["state"] == "queued")
        assert "its machine is about to be taken away" in platform.jobs.get(job_id)["reason"]
    noticed = len(steps.read_text())
    with machine(tmp_path / "two.log"):
        until(lambda: len(steps.read_text()) > noticed + 10)
    until(lambda: platform.jobs.get(job_id)["state"] == "queued")  # killed; it was not the command that failed
    killed = len(steps.read_text())
    until(lambda: asked() == [({"FPGA": 2.0}, 1)])  # at once: it has waited before
    with machine(tmp_path / "three.log"):
        until(lambda: len(steps.read_text()) > killed)
        assert platform.jobs.get(job_id)["leases"] == 3


@ray.remote(num_cpus=0, resources={"FPGA": 1.0})
class Holder:
    def site(self) -> str:
        labels = ray.get_runtime_context().get_node_labels()
        return str(labels.get("site", "own"))


def test_actors_beside_the_queue_fill_own_machines_first(platform: mlplat.Platform, tmp_path: Path) -> None:
    until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)  # the one that was killed is seen to be gone
    with machine(tmp_path / "raylet.log"):
        until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
        holders = [Holder.options(**own_first()).remote() for _ in range(4)]  # type: ignore[attr-defined]
        assert sorted(ray.get([holder.site.remote() for holder in holders[:2]])) == ["own", "own"]
        assert sorted(ray.get([holder.site.remote() for holder in holders[2:]])) == ["cloud", "cloud"]
        for holder in holders:
            ray.kill(holder)


def test_replicas_of_a_model_fill_own_machines_first(platform: mlplat.Platform, tmp_path: Path) -> None:
    from ray import serve

    from mlplat.serve._ray import backbones

    @serve.deployment(num_replicas=3)
    class Tells:
        def __init__(self, folder: Path) -> None:
            site = ray.get_runtime_context().get_node_labels().get("site", "own")
            (folder / f"{serve.get_replica_context().replica_id.unique_id}.{site}").touch()

    until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)
    options = backbones.resources(Demand.parse({"FPGA": 1, "workers": 3}), owned=False)
    with machine(tmp_path / "raylet.log"):
        until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
        try:
            serve.start(proxy_location="Disabled")
            (tmp_path / "told").mkdir()
            app = Tells.options(ray_actor_options=options).bind(tmp_path / "told")  # type: ignore[attr-defined]
            serve.run(app, name="tells", route_prefix=None)
        finally:
            serve.shutdown()
    assert sorted(file.suffix for file in (tmp_path / "told").iterdir()) == [".cloud", ".own", ".own"]
